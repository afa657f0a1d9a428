"""Settings that the experiments of tests share."""

# No tuning at home and no mix with the silo's own model: for tests whose subject is something else, because both take most of
# a small run's time.
ROUNDS_ONLY = ("method.tune.epochs=0", 'method.choose.candidates=["tuned"]')
# A little of both, where they are the subject.
MIXED = ("method.tune.epochs=2", 'method.choose.candidates=["own", "tuned"]')
