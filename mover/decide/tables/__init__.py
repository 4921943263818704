"""What may leave a table: a typed allow-list of columns (design/deidentification.md, section 3).

Every column has a class, and a cell that is not of its class never leaves: the row is a conflict with the
reason `misfit:<fact>`, is used for nothing, and more than a declared share of such rows stops the whole file,
because then the column is not what the policy says it is. A column that no rule names stops the file at once.
There is no class that lets text through: words come from the policy's own lists, the rest is numbers.

In order: `check_policy` (`columns`: once, before anything is read), `arrange` and `type_rows` (`rows`: a header against
its rule, cells to values by the readers of `cells`), `release` and `suspects` (`leaving`: values to facts, and the last
net, across all tables of a patient).
"""

from __future__ import annotations

from mover.decide.tables.cells import (
    AGE_EDGE,
    GRAMMARS,
    Misfit,
    Value,
    allowed_values,
    key_text,
    mask,
    neutralise,
    no_values,
    reader_of,
    readings,
)
from mover.decide.tables.columns import MAX_FACTS, check_policy, column_problems, fact_columns, fact_name, link_columns
from mover.decide.tables.leaving import release, suspects, tokens, vocabulary
from mover.decide.tables.rows import FEW_MISFITS, Layout, TypedRow, arrange, check_misfits, type_rows

__all__ = [
    "AGE_EDGE", "FEW_MISFITS", "GRAMMARS", "Layout", "MAX_FACTS", "Misfit", "TypedRow", "Value",
    "allowed_values", "arrange", "check_misfits", "check_policy", "column_problems", "fact_columns",
    "fact_name", "key_text", "link_columns", "mask", "neutralise", "no_values", "reader_of", "readings", "release",
    "suspects", "tokens", "type_rows", "vocabulary",
]  # fmt: skip
