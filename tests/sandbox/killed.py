"""A module as a unit's filter of system calls leaves it: whoever imports it is ended by SIGSYS."""

import os
import signal

os.kill(os.getpid(), signal.SIGSYS)
