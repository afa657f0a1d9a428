"""Any sequence of charges, stores and crashes compared with a model in a few lines."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtl.errors import (
    BudgetExhausted,
    FedTLError,
    Refused,
    RoundLost,
)
from fedtl.privacy.budget import Budget
from fedtl.privacy.verify import study_costs
from tests.privacy.ledger.ledgers import COST, PLAN, ROUND, lines, opened, state, verify

Step = st.tuples(
    st.sampled_from(["charge", "store", "crash", "confirm"]),
    st.sampled_from(["a", "b"]),
    st.integers(1, 3),
    st.sampled_from(["x", "y"]),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(Step, max_size=14))
def test_any_sequence_equals_a_simple_model(tmp_path_factory, steps):
    """The model: for each study the number of its rounds, its last round, that round's task, and the reply."""
    path = tmp_path_factory.mktemp("model") / "ledger.sqlite"
    budget = Budget(PLAN.epsilon * 1.5, 1e-5)
    ledger, model = opened(path, budget=budget), {}
    for what, study, round, task in steps:
        count, last, hash_, reply = model.get(study, (0, 0, "", None))
        if what == "crash":  # whatever was not yet stored is lost with the process: the book alone knows
            ledger = opened(path, budget=budget)
        elif what == "confirm":
            ledger.confirm("aa")
        elif what == "store":
            if count and round == last and reply is None:
                ledger.store(study, round, f"{study}{round}".encode())
                model[study] = count, last, hash_, f"{study}{round}".encode()
            else:
                with pytest.raises(FedTLError):
                    ledger.store(study, round, b"")
        else:
            expected = (
                Refused if round < last or (round == last and task != hash_)
                else RoundLost if round == last and reply is None
                else reply if round == last
                else BudgetExhausted if model.keys() - {study}
                else None
            )  # fmt: skip
            if isinstance(expected, type):
                with pytest.raises(expected):
                    ledger.charge(study, round, task, ROUND, PLAN)
            else:
                assert ledger.charge(study, round, task, ROUND, PLAN).reply == expected
                if expected is None:
                    model[study] = count + 1, round, task, None
        assert state(ledger).taken[0] == PLAN.epsilon * len(model)
        assert {name: its.charged for name, its in study_costs(lines(ledger)).items()} == {
            name: pytest.approx(COST[its[0]]) for name, its in model.items()
        }
    verify(ledger)
