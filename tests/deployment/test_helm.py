"""The Helm chart, linted and rendered by helm itself, gives the manifests of deploy/kubernetes."""

import copy
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.deployment.test_deploy import manifests

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "fedtl"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
FACTS = yaml.safe_load((CHART / "Chart.yaml").read_text())
# CI has helm: deploy/helm/get_helm.py puts it there.
HELM = shutil.which("helm") or shutil.which("helm", path=CHART.parents[2] / ".helm")
pytestmark = pytest.mark.skipif(not HELM, reason="helm is not here: make .helm/helm")


def values(**changes):
    """The chart's own, with ``site__enabled`` and so on changed."""
    made = copy.deepcopy(VALUES)
    for key, value in changes.items():
        *above, last = key.split("__")
        inner = made
        for one in above:
            inner = inner[one]
        assert last in inner
        inner[last] = value
    return made


def rendered(release, **changes):
    """The manifests of the chart, by kind and name; helm prints them in the order of their installation."""
    words = [HELM, "template", release, CHART, "-f", "-"]
    done = subprocess.run(words, input=yaml.safe_dump(values(**changes)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made = [one for one in yaml.safe_load_all(done.stdout) if one]
    return sorted(made, key=lambda one: (one["kind"], one["metadata"]["name"]))


def bare(manifest, whose):
    """A manifest without what the chart adds or names after the release."""
    one = copy.deepcopy(manifest)
    for key in ("namespace", "labels", "annotations"):
        one["metadata"].pop(key, None)
    if one["kind"] == "NetworkPolicy":
        one["metadata"]["name"] = one["metadata"]["name"].removeprefix(f"{whose}-")
        one["spec"]["podSelector"] = {}
    if one["kind"] == "StatefulSet":
        for container in one["spec"]["template"]["spec"]["containers"]:
            container.pop("imagePullPolicy", None)
    return one


def of_release(manifest, whose):
    """A manifest of release "r", as if the release had no name."""
    return yaml.safe_load(yaml.safe_dump(bare(manifest, f"r-{whose}")).replace("r-", ""))


@pytest.mark.parametrize("whose", ["server", "site"])
def test_the_chart_gives_the_plain_manifests(whose):
    """Names, labels and the namespace aside; each policy selects the Pods of its release instead of a namespace."""
    made = {one["kind"]: one for one in rendered("r", **{f"{whose}__enabled": True})}
    plain = {one["kind"]: one for one in manifests(whose) if one["kind"] != "Namespace"}
    assert made.keys() == plain.keys()
    for kind, one in plain.items():
        assert of_release(made[kind], whose) == bare(one, whose), kind
    labels = made["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
    assert made["StatefulSet"]["spec"]["selector"]["matchLabels"] == labels
    assert made["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    if whose == "server":
        assert made["Service"]["spec"]["selector"] == labels
        assert made["Service"]["metadata"]["name"] == made["StatefulSet"]["spec"]["serviceName"]


@pytest.mark.parametrize("whose", ["server", "site"])
def test_every_container_is_locked_down_and_limited(whose):
    (one,) = [one for one in rendered("r", **{f"{whose}__enabled": True}) if one["kind"] == "StatefulSet"]
    pod = one["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        rights = container["securityContext"]
        assert (rights["readOnlyRootFilesystem"], rights["allowPrivilegeEscalation"]) == (True, False)
        assert rights["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory", "ephemeral-storage"} <= container["resources"]["limits"].keys()
        assert container["image"] == f"fedtl:{FACTS['appVersion']}"


def test_the_manifests_of_the_chart_fit_kubernetes_schema():
    validate = pytest.importorskip("kubernetes_validate").validate
    more = {"image__pullSecrets": [{"name": "registry"}], "image__tag": "0.1.0-cuda", "port": 9443}
    more |= {
        "server__fromAddresses": ["198.51.100.0/24"],
        "server__service": {"type": "ClusterIP", "annotations": {"a": "b"}},
    }
    more |= {
        "site__nodeSelector": {"gpu": "yes"},
        "site__tolerations": [{"key": "gpu", "operator": "Exists"}],
    }
    more |= {"site__storage": {"size": "1Ti", "className": "fast"}}
    made = rendered("r", server__enabled=True, site__enabled=True, **more)
    for one in made:
        validate(one, "1.33", strict=True)
    assert len({(one["kind"], one["metadata"]["name"]) for one in made}) == len(made) == 7
    policies = [one["spec"] for one in made if one["kind"] == "NetworkPolicy"]
    assert policies[0]["ingress"][0]["from"] == [{"ipBlock": {"cidr": "198.51.100.0/24"}}]
    assert policies[1]["egress"][0]["ports"] == [{"protocol": "TCP", "port": 9443}]
    assert "ingress" not in policies[1]
    site = next(one for one in made if one["metadata"]["name"] == "r-site" and one["kind"] == "StatefulSet")[
        "spec"
    ]["template"]["spec"]
    assert (site["nodeSelector"], site["imagePullSecrets"]) == ({"gpu": "yes"}, [{"name": "registry"}])


def test_nothing_is_installed_unless_it_is_switched_on():
    assert rendered("r") == []


@pytest.mark.parametrize("whose", ["server", "site"])
def test_helm_finds_nothing_wrong_with_the_chart(whose):
    words = [HELM, "lint", "--strict", CHART, "--set", f"{whose}.enabled=true"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
