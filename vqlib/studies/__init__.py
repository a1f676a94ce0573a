"""From the report to the library, one change at a time. In reading order: rows, quantizers, priors, __main__, results."""
