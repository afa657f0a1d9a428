"""The files of a study at the coordinator, one type for each: its plan, a round of its history, its result."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

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


@dataclass(frozen=True)
class StudyPlan:
    """
    ``plan.json``. ``deadline``: seconds for a round. ``tries``: attempts at a round that gets too few valid replies. ``grace``:
    seconds that a round waits for the sites of the last one to reconnect. These three may change when a study is resumed.
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

    def is_same_study(self, other: "StudyPlan") -> bool:
        """Whether two plans differ at most in how long the coordinator waits."""
        return replace(other, deadline=self.deadline, tries=self.tries, grace=self.grace) == self

    def to_json(self) -> dict[str, Any]:
        return {
            **_config_table(self.config),
            "roles": _role_names(self.roles),
            "bundle": self.bundle,
            "plan": self.plan,
            **({} if self.private is None else {"private": self.private}),
            **({"verdict": True} if self.verdict else {}),
            "bundle_name": self.bundle_name,
            "deadline": self.deadline,
            "tries": self.tries,
            "grace": self.grace,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "StudyPlan":
        """Return the plan in ``content``. Raises KeyError, TypeError or ValueError for anything but a plan."""
        return cls(
            config=_config(content["study"], content),
            roles=_roles(content),
            bundle_name=content["bundle_name"],
            deadline=content["deadline"],
            tries=content["tries"],
            bundle=content["bundle"],
            plan=content["plan"],
            private=content.get("private"),
            grace=content.get("grace", 0.0),
            verdict=content.get("verdict", False),
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
    left_out: Mapping[str, Sequence[str]]
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
    """Return the server's step: a plain one, or that of feddf or fedmd, which its settings tell."""
    if "weighting" in table:
        return MeanAnswers(**table)
    if "steps" in table:
        return DistilOnServer(**{key: value for key, value in table.items() if key != "public"})
    return ServerStep(**table)


def _config_table(config: FederationConfig) -> dict[str, Any]:
    """Return the plain values of a configuration, without "wire" and "limits" where there are none, as fedtl 0.1.0 wrote it."""
    table = asdict(config)
    if not config.wire.compresses:
        del table["wire"]
    if config.limits == NO_LIMITS:
        del table["limits"]
    return table


def _roles(content: Mapping[str, Any]) -> dict[str, Role]:
    return {name: Role(role) for name, role in content["roles"].items()}


def _role_names(roles: Mapping[str, Role]) -> dict[str, str]:
    return {name: str(role) for name, role in roles.items()}
