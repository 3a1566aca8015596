"""The parts that both machines of the cache share: on real servers, and in memory."""

MOST_SIGNALS_MEANWHILE = 5  # that commit while another one is on its way; the addon notices seven


class Steps:
    """Steps of a machine that has a ``cluster``, the ``names`` of objects, and ``some`` cursor."""

    def name(self, number):
        """One of the objects."""
        return self.names[number % len(self.names)]

    def savepoint(self, number, other, rollback):
        """Set a savepoint, or end one."""
        opened = self.some(number)
        if opened.savepoints and other % 3:
            self.cluster.end_savepoint(opened, rollback=rollback)
        else:
            self.cluster.savepoint(opened)


class LateSignals:
    """A cluster some of whose ``signals`` are on their way, until ``finish_signal``."""

    def passed(self):
        """Another signal was committed."""
        for signal in self.signals():
            signal.meanwhile += 1
            if signal.meanwhile == MOST_SIGNALS_MEANWHILE:
                self.finish_signal(signal)
