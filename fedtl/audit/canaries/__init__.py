"""What a run's canaries show: noise, clipping, sampling, and lower bounds on epsilon."""
