"""The Kubernetes manifests fit the application, the settings and each other."""

from __future__ import annotations

import functools
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kerneljudge.service import Settings

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
OVERLAYS = sorted(path.name for path in (FOLDER / "overlays").iterdir())

needs_kubectl = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="there is no kubectl to build the manifests with"
)

Manifest = dict[str, Any]


def kustomize(folder: Path) -> list[Manifest]:
    """The manifests that an overlay comes to."""
    done = subprocess.run(
        ["kubectl", "kustomize", folder], capture_output=True, text=True, timeout=60, check=True
    )
    return list(yaml.safe_load_all(done.stdout))


@functools.cache
def overlay(name: str) -> list[Manifest]:
    """Those of one overlay."""
    return kustomize(FOLDER / "overlays" / name)


def of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def deployment(manifests: list[Manifest]) -> Manifest:
    (found,) = of_kind(manifests, "Deployment")
    return found


def container(manifests: list[Manifest]) -> Manifest:
    (found,) = deployment(manifests)["spec"]["template"]["spec"]["containers"]
    return dict(found)


def settings_file(manifests: list[Manifest]) -> str:
    (found,) = of_kind(manifests, "ConfigMap")
    return str(found["data"]["kerneljudge.toml"])


def workloads(manifests: list[Manifest]) -> Iterator[tuple[Manifest, dict[str, str]]]:
    """Everything that makes pods, with the labels of its pods."""
    for manifest in of_kind(manifests, "Deployment", "StatefulSet", "DaemonSet"):
        yield manifest, manifest["spec"]["template"]["metadata"]["labels"]


def selects(selector: dict[str, str], manifests: list[Manifest]) -> list[Manifest]:
    """What a selector's labels choose."""
    assert selector, "an empty selector chooses everything"
    return [each for each, labels in workloads(manifests) if selector.items() <= labels.items()]


def named_ports(workload: Manifest) -> dict[str, int]:
    return {
        port["name"]: port["containerPort"]
        for each in workload["spec"]["template"]["spec"]["containers"]
        for port in each.get("ports", [])
    }


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.yaml")), ids=lambda path: path.name)
def test_every_file_is_yaml_and_is_used(path: Path) -> None:
    assert all(isinstance(each, dict | list) for each in yaml.safe_load_all(path.read_text()))
    if path.name != "kustomization.yaml":
        assert path.name in (path.parent / "kustomization.yaml").read_text()


@needs_kubectl
@pytest.mark.parametrize("name", OVERLAYS)
class TestOverlay:
    """Each kind of GPU."""

    def test_everything_is_in_a_namespace_of_its_own(self, name: str) -> None:
        (namespace,) = of_kind(overlay(name), "Namespace")
        assert namespace["metadata"]["name"] == f"kerneljudge-{name}"
        for manifest in overlay(name):
            if manifest["kind"] != "Namespace":
                assert manifest["metadata"]["namespace"] == f"kerneljudge-{name}"

    def test_probes_ask_where_the_application_answers(self, name: str, paths: set[str]) -> None:
        server = container(overlay(name))
        ports = {port["name"] for port in server["ports"]}
        asked = {
            kind: server[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")
        }
        assert {probe["port"] for probe in asked.values()} <= ports
        assert asked["liveness"]["path"] == "/health/live"
        assert asked["startup"]["path"] == asked["readiness"]["path"] == "/health/ready"
        assert {probe["path"] for probe in asked.values()} <= paths

    def test_it_is_given_as_long_to_start_as_a_judge_is(self, name: str) -> None:
        probe = container(overlay(name))["startupProbe"]
        most = tomllib.loads(settings_file(overlay(name))).get(
            "start_timeout", Settings.model_fields["start_timeout"].default
        )
        assert probe["periodSeconds"] * probe["failureThreshold"] > most

    def test_its_settings_are_settings(
        self, name: str, tmp_path: Path, settings_of: Callable[..., Settings]
    ) -> None:
        manifests = overlay(name)
        path = tmp_path / "kerneljudge.toml"
        path.write_text(settings_file(manifests))
        given = {each["name"]: each.get("value", "given") for each in container(manifests)["env"]}
        settings = settings_of(given | {"KERNELJUDGE_CONFIG": str(path)})
        assert settings.gpu_type == name
        assert settings.pod_name == settings.pod_ip == settings.database == "given"
        mounts = {each["mountPath"] for each in container(manifests)["volumeMounts"]}
        assert settings.admin_key_file is not None
        assert str(settings.admin_key_file.parent) in mounts

    def test_it_runs_a_real_command_with_the_mounted_settings(
        self, name: str, commands: set[str]
    ) -> None:
        server = container(overlay(name))
        command, option, path = server["args"]
        assert command in commands
        assert option == "--config"
        assert Path(path).parent.as_posix() in {
            each["mountPath"] for each in server["volumeMounts"]
        }

    def test_it_ends_no_sooner_than_its_jobs(self, name: str) -> None:
        pod = deployment(overlay(name))["spec"]["template"]["spec"]
        grace = tomllib.loads(settings_file(overlay(name)))["shutdown_grace"]
        assert pod["terminationGracePeriodSeconds"] >= grace + 15

    def test_there_is_one_pod_a_node_with_all_its_gpus(self, name: str) -> None:
        spec = deployment(overlay(name))["spec"]
        pod = spec["template"]["spec"]
        (rule,) = pod["affinity"]["podAntiAffinity"][
            "requiredDuringSchedulingIgnoredDuringExecution"
        ]
        assert rule["topologyKey"] == "kubernetes.io/hostname"
        assert rule["labelSelector"]["matchLabels"].items() <= (
            spec["template"]["metadata"]["labels"].items()
        )
        assert name.upper() in pod["nodeSelector"]["nvidia.com/gpu.product"]
        assert int(container(overlay(name))["resources"]["limits"]["nvidia.com/gpu"]) >= 1
        assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}

    def test_selectors_choose_pods_and_ports_exist(self, name: str) -> None:
        manifests = overlay(name)
        for workload, labels in workloads(manifests):
            assert workload["spec"]["selector"]["matchLabels"].items() <= labels.items()
        for service in of_kind(manifests, "Service"):
            (chosen,) = selects(service["spec"]["selector"], manifests)
            for port in service["spec"]["ports"]:
                assert port["targetPort"] in named_ports(chosen)
        (budget,) = of_kind(manifests, "PodDisruptionBudget")
        assert selects(budget["spec"]["selector"]["matchLabels"], manifests) == [
            deployment(manifests)
        ]

    def test_each_pod_has_its_own_network_policy(self, name: str) -> None:
        manifests = overlay(name)
        policies = of_kind(manifests, "NetworkPolicy")
        guarded = []
        for policy in policies:
            (chosen,) = selects(policy["spec"]["podSelector"]["matchLabels"], manifests)
            guarded.append(chosen)
            assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
            for rule in policy["spec"]["ingress"]:
                assert rule["from"]
                assert {port["port"] for port in rule["ports"]} <= named_ports(chosen).keys()
        assert guarded == [workload for workload, _ in workloads(manifests)]

    def test_volumes_are_mounted_and_mounts_have_volumes(self, name: str) -> None:
        pod = deployment(overlay(name))["spec"]["template"]["spec"]
        server = container(overlay(name))
        assert {each["name"] for each in pod["volumes"]} == {
            each["name"] for each in server["volumeMounts"]
        }
        writable = {
            each["mountPath"] for each in server["volumeMounts"] if not each.get("readOnly")
        }
        assert writable == {"/tmp", "/var/cache/kerneljudge", "/var/lib/kerneljudge"}

    def test_secrets_come_by_reference(self, name: str) -> None:
        manifests = overlay(name)
        assert not of_kind(manifests, "Secret")
        for workload, _ in workloads(manifests):
            for each in workload["spec"]["template"]["spec"]["containers"]:
                for variable in each["env"]:
                    if any(word in variable["name"] for word in ("PASSWORD", "DATABASE")):
                        assert variable["valueFrom"]["secretKeyRef"]["name"] == "kerneljudge"

    def test_it_may_do_no_more_than_it_must(self, name: str) -> None:
        pod = deployment(overlay(name))["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container(overlay(name))["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }

    def test_the_namespace_takes_nothing_less_restricted(self, name: str) -> None:
        (namespace,) = of_kind(overlay(name), "Namespace")
        labels = namespace["metadata"]["labels"]
        assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


@needs_kubectl
def test_device_metrics_add_an_administrators_rights_and_nothing_else(tmp_path: Path) -> None:
    # kustomize takes no absolute paths.
    up = "../" * len(tmp_path.parts[1:])
    (tmp_path / "kustomization.yaml").write_text(
        f"resources: [{up}{FOLDER.relative_to('/')}/overlays/{OVERLAYS[0]}]\n"
        f"components: [{up}{FOLDER.relative_to('/')}/components/device-metrics]\n"
    )
    manifests = kustomize(tmp_path)
    (namespace,) = of_kind(manifests, "Namespace")
    labels = namespace["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "privileged"
    server, before = container(manifests), container(overlay(OVERLAYS[0]))
    rights = server["securityContext"].pop("capabilities")
    assert rights["drop"] == ["ALL"]
    # A root server changes users for its kernels; without these it could not.
    assert {"SYS_ADMIN", "SETUID", "SETGID", "CHOWN", "KILL"} <= set(rights["add"])
    assert server["securityContext"] == {
        "allowPrivilegeEscalation": True,
        "readOnlyRootFilesystem": True,
    }
    assert {**server, "securityContext": None} == {**before, "securityContext": None}
