"""Where people work: the executables and hooks that a scheduler calls, all of them on the SDK.

`following` carries one run from its request to its end over daemons that go away and come back; `words` is what a
job script says and what its owner is told. The rest is one module per scheduler.
"""
