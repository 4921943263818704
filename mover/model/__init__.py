"""The words of the house: frozen values, parsing, arithmetic. No IO, no clock, no behaviour beyond that."""
