"""04: the merge's certificate, licences, the Hub and the practice Hub."""
