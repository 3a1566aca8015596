"""Python imports this at its start where it is to have another clock: see ``environment.clock``."""

import os
import time

import time_machine  # type: ignore[import-not-found]

time_machine.travel(time.time() + float(os.environ["CLOCK_AHEAD"]), tick=True).start()
