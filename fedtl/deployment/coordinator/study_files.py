"""The files of a study at the coordinator, one type for each: its plan, a round of its history, its result."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, cast

from fedtl._util.records import to_plain
from fedtl.federation.limits import NO_LIMITS, UpdateLimits
from fedtl.federation.round_log import left_out_reasons
from fedtl.federation.rounds import FederationConfig
from fedtl.methods.base import Server
from fedtl.methods.feddf import DistilOnServer
from fedtl.methods.fedmd import MeanAnswers
from fedtl.methods.server import ServerStep
from fedtl.methods.wire import Wire
from fedtl.models.roles import Role
from fedtl.results.comparison import Verdict
from fedtl.results.run import HistoryLine

PLAIN = "step"
SERVER_STEPS: Mapping[str, Callable[..., Server]] = {  # by the kind that a plan says
    PLAIN: ServerStep,
    "distil": DistilOnServer,
    "answers": MeanAnswers,
}
# How long the coordinator waits for a study; a plan of an earlier fedtl has not all of them.
WAITING_TIMES = ("deadline", "tries", "grace", "ask_again", "verdict_days")
NOT_YET = (
    "has not answered yet"  # instead of a verdict, from when the question is sent until the first answer
)


@dataclass(frozen=True)
class StudyPlan:
    """
    ``plan.json``. ``deadline``: seconds for a round. ``tries``: attempts at a round that gets too few valid replies. ``grace``:
    seconds that a round waits for the sites of the last one to reconnect. ``ask_again``: seconds until sites are asked again that do not
    train at this hour, or have not said whether joining helped. ``verdict_days``: for how long the latter are asked. These may change when
    a study is resumed.
    ``bundle`` and ``plan``: hashes. ``private``: whether the plan makes every site train with differential privacy; None
    where fedtl 0.1.0 wrote the file and did not say. ``verdict``: whether the sites are asked after the last round if joining helped.
    """

    config: FederationConfig
    roles: Mapping[str, Role]
    bundle_name: str
    deadline: float
    tries: int
    bundle: str
    plan: str
    private: bool | None = None
    grace: float = 0.0
    verdict: bool = False
    ask_again: float = 900.0
    verdict_days: float = 7.0

    def is_same_study(self, other: "StudyPlan") -> bool:
        """Whether two plans differ at most in how long the coordinator waits."""
        return replace(other, **{name: getattr(self, name) for name in WAITING_TIMES}) == self

    def to_json(self) -> dict[str, Any]:
        return {
            **_config_table(self.config),
            "roles": _role_names(self.roles),
            "bundle": self.bundle,
            "plan": self.plan,
            **({} if self.private is None else {"private": self.private}),
            **({"verdict": True} if self.verdict else {}),
            "bundle_name": self.bundle_name,
            **{name: getattr(self, name) for name in WAITING_TIMES},
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "StudyPlan":
        """Return the plan in ``content``. Raises KeyError, TypeError or ValueError for anything but a plan."""
        return cls(
            config=_config(content["study"], content),
            roles=_roles(content),
            bundle_name=content["bundle_name"],
            bundle=content["bundle"],
            plan=content["plan"],
            private=content.get("private"),
            verdict=content.get("verdict", False),
            **{name: content[name] for name in WAITING_TIMES if name in content},
        )


@dataclass(frozen=True)
class BundleInfo:
    """``server.json`` next to a bundle: what the coordinator needs to start a study from it. Fields as in ``StudyPlan``."""

    config: FederationConfig
    roles: Mapping[str, Role]
    bundle: str
    plan: str
    private: bool | None
    verdict: bool = False

    def to_json(self) -> dict[str, Any]:
        config = _config_table(self.config)
        del config["study"]  # a bundle has no study yet
        facts = {"bundle": self.bundle, "plan": self.plan, "private": self.private}
        facts |= {"verdict": True} if self.verdict else {}
        return {**facts, **config, "roles": _role_names(self.roles)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], study: str) -> "BundleInfo":
        """``study``: the name of the study that is started from the bundle."""
        hashes = content["bundle"], content["plan"]
        facts = content.get("private"), content.get("verdict", False)
        return cls(_config(study, content), _roles(content), *hashes, *facts)


@dataclass(frozen=True)
class StudyResult:
    """
    ``result.json``: only what the updates carried; the coordinator has no test rows. ``silos``: the number of
    rounds in which the reply of each silo counted. ``left_out``: for each other silo the rounds and reasons. ``verdicts``: of each silo
    that answered whether joining helped; ``without_verdict``: why each other one did not. Both are empty where the plan does not ask.
    """

    study: str
    rounds: int
    silos: Mapping[str, int]
    left_out: Mapping[str, tuple[str, ...]]
    bytes_up: int
    bytes_down: int
    seconds: float
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    without_verdict: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, study: str, lines: Sequence[HistoryLine]) -> "StudyResult":
        replied = sorted({name for line in lines for name in line.silos})
        return cls(
            study=study,
            rounds=len(lines),
            silos={name: sum(name in line.silos for line in lines) for name in replied},
            left_out=left_out_reasons(lines),
            bytes_up=sum(line.bytes_up for line in lines),
            bytes_down=sum(line.bytes_down for line in lines),
            seconds=round(sum(line.seconds for line in lines), 3),
        )


def _config(study: str, content: Mapping[str, Any]) -> FederationConfig:
    return FederationConfig(
        study,
        content["seed"],
        content["rounds"],
        _server(content["server"]),
        content["silos_per_round"],
        content["minimum_silos"],
        Wire(**content.get("wire", {})),
        UpdateLimits(**content.get("limits", {})),
    )


def _server(table: Mapping[str, Any]) -> Server:
    """Return the server's step of a table that says its kind; one that fedtl 0.1.0 wrote says none, and is a plain step."""
    kind = SERVER_STEPS[table.get("kind", PLAIN)]
    return kind(**{key: value for key, value in table.items() if key != "kind"})


def _server_table(step: Server) -> dict[str, Any]:
    """Return the kind of a server's step and its settings, as ``_server`` reads them. Raises KeyError for a step that no plan can have."""
    kinds = {kind: name for name, kind in SERVER_STEPS.items()}
    given = {one.name: getattr(step, one.name) for one in fields(cast(Any, step)) if one.compare}
    return {"kind": kinds[type(step)], **to_plain(given)}


def _config_table(config: FederationConfig) -> dict[str, Any]:
    """Return the plain values of a configuration, without "wire" and "limits" where there are none, as fedtl 0.1.0 wrote it."""
    table = {**asdict(replace(config, server=ServerStep())), "server": _server_table(config.server)}
    if not config.wire.compresses:
        del table["wire"]
    if config.limits == NO_LIMITS:
        del table["limits"]
    return table


def _roles(content: Mapping[str, Any]) -> dict[str, Role]:
    return {name: Role(role) for name, role in content["roles"].items()}


def _role_names(roles: Mapping[str, Role]) -> dict[str, str]:
    return {name: str(role) for name, role in roles.items()}
