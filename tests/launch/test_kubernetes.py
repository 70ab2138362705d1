"""Pods of a recipe's nodes: the real schemas hold, pod K is node K, keys are where they belong, and nowhere else."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
import yaml

from decentral.errors import UserError
from decentral.launch import kubernetes
from decentral.launch.apart import OWN
from decentral.launch.kubernetes import identities
from decentral.launch.render import HEALTH, Setting, rendered
from decentral.run.directory import RunDirectory
from tests.launch.rendered import objects, serving, training

RENDERED = [
    pytest.param(training(), Setting(), id="training"),
    pytest.param(training("data.name=cifar10"), Setting(gpu=True, port=7777), id="on GPUs"),
    pytest.param(training(), Setting(confidential="kata-qemu-snp"), id="confidential"),
    pytest.param(serving(), Setting(), id="serving"),
    pytest.param(serving(), Setting(metrics=9300), id="with metrics"),
    pytest.param(training(), Setting(plugins=(Path(__file__),)), id="with a plugin"),
]


def container(recipe, setting=None):
    return pod(recipe, setting)["containers"][0]


def pod(recipe, setting=None):
    return objects(rendered(recipe, "kubernetes", setting or Setting()))["StatefulSet"]["spec"]["template"]["spec"]


def valid(found) -> None:
    schemas = pytest.importorskip("kubernetes_validate")
    for one in found.values():
        schemas.validate(one, schemas.latest_version(), strict=True)


@pytest.mark.parametrize(("recipe", "setting"), RENDERED)
def test_every_object_is_as_its_schema_has_it(recipe, setting):
    found = objects(rendered(recipe, "kubernetes", setting))
    assert set(found) == {"ConfigMap", "Service", "NetworkPolicy", "StatefulSet"}
    valid(found)


def test_the_schemas_see_a_mistake():
    schemas = pytest.importorskip("kubernetes_validate")
    found = objects(rendered(training(), "kubernetes", Setting()))["StatefulSet"]
    found["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(schemas.ValidationError):
        schemas.validate(found, schemas.latest_version(), strict=True)


@pytest.mark.parametrize(("recipe", "setting"), RENDERED)
def test_no_pod_has_a_right_too_many(recipe, setting):
    spec = pod(recipe, setting)
    assert spec["securityContext"]["runAsNonRoot"] and spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for one in spec["containers"]:
        assert (
            one["securityContext"]["readOnlyRootFilesystem"] and not one["securityContext"]["allowPrivilegeEscalation"]
        )
        assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert one["resources"]["requests"] and one["resources"]["limits"]["memory"]
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)


def test_peers_talk_to_peers_alone():
    found = objects(rendered(training(), "kubernetes", Setting(port=7777)))
    labels = found["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
    policy = found["NetworkPolicy"]["spec"]
    among = [{"podSelector": {"matchLabels": labels}}]
    port = [{"protocol": "TCP", "port": 7777}]
    assert policy["podSelector"] == among[0]["podSelector"] and set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert policy["ingress"] == [{"from": among, "ports": port}]
    assert policy["egress"][0] == {"to": among, "ports": port}
    assert [{use["port"] for use in out["ports"]} for out in policy["egress"]] == [{7777}, {53}]


def test_metrics_are_for_monitoring_alone_and_where_nobody_asked_for_them_there_are_none():
    found = objects(rendered(training(), "kubernetes", Setting(metrics=9300)))
    template = found["StatefulSet"]["spec"]["template"]
    assert template["metadata"]["annotations"]["prometheus.io/port"] == "9300"
    assert template["spec"]["containers"][0]["args"][-2:] == ["--metrics", "0.0.0.0:9300"]
    peers, monitoring = found["NetworkPolicy"]["spec"]["ingress"]
    assert [port["port"] for port in peers["ports"]] == [7000]
    assert [port["port"] for port in monitoring["ports"]] == [9300]
    assert monitoring["from"][0]["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "prometheus"}
    without = rendered(training(), "kubernetes", Setting())
    assert "metrics" not in without and "prometheus" not in without


def test_the_service_names_pods_before_they_are_ready():
    found = objects(rendered(training(), "kubernetes", Setting()))
    spec = found["Service"]["spec"]
    assert spec["clusterIP"] == "None" and spec["publishNotReadyAddresses"]
    assert found["StatefulSet"]["spec"]["serviceName"] == found["Service"]["metadata"]["name"]
    assert spec["selector"] == found["StatefulSet"]["spec"]["template"]["metadata"]["labels"]


def test_probes_show_a_certificate():
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container(training())[probe]["exec"]["command"] == list(HEALTH)


def test_a_peer_that_has_finished_stays_and_one_that_serves_is_never_done():
    assert "--stay" in container(training())["args"] and "--stay" not in container(serving())["args"]


def test_a_gpu_and_a_confidential_machine_are_there_when_they_are_asked_for():
    gpu, confidential = Setting(gpu=True), Setting(confidential="kata-qemu-snp")
    assert container(training(), gpu)["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "nvidia.com/gpu" not in container(training())["resources"]["limits"]
    assert pod(training(), confidential)["runtimeClassName"] == "kata-qemu-snp"
    assert "runtimeClassName" not in pod(training())
    assert "No such cluster has run this" in rendered(training(), "kubernetes", confidential)


def test_datasets_that_are_files_come_from_a_volume():
    assert "data" not in {volume["name"] for volume in pod(training())["volumes"]}
    claims = {volume["name"]: volume for volume in pod(training("data.name=cifar10"))["volumes"]}
    assert claims["data"]["persistentVolumeClaim"]["claimName"] == "dimat-digits-data"


# An authority beside the nodes


def every(recipe, setting):
    return list(yaml.safe_load_all(rendered(recipe, "kubernetes", setting)))


def test_the_authority_that_renews_has_as_few_rights_and_nodes_reach_it():
    found = every(training(), Setting(renew=True))
    schemas = pytest.importorskip("kubernetes_validate")
    for one in found:
        schemas.validate(one, schemas.latest_version(), strict=True)
    deployment = next(one for one in found if one["kind"] == "Deployment")
    spec = deployment["spec"]["template"]["spec"]
    assert spec["securityContext"] == pod(training())["securityContext"]
    assert spec["containers"][0]["securityContext"] == container(training())["securityContext"]
    nodes, own = (one["spec"] for one in found if one["kind"] == "NetworkPolicy")
    assert nodes["podSelector"] == own["ingress"][0]["from"][0]["podSelector"]
    assert {"podSelector": own["podSelector"]} in [to for out in nodes["egress"] for to in out["to"]]
    assert own["policyTypes"] == ["Ingress", "Egress"] and "egress" not in own


def test_its_key_is_in_the_cluster_when_it_is_asked_for_and_nodes_know_its_name(tmp_path):
    found = list(yaml.safe_load_all(identities(training(), tmp_path / "cluster", Setting(renew=True))))
    secrets = {one["metadata"]["name"]: one["data"] for one in found if one["kind"] == "Secret"}
    key = (tmp_path / "cluster" / "authority" / "authority.pem").read_bytes()
    assert base64.b64decode(secrets["dimat-digits-authority"]["authority.pem"]) == key
    services = [one["metadata"]["name"] for one in every(training(), Setting(renew=True)) if one["kind"] == "Service"]
    assert services == ["dimat-digits", "dimat-digits-authority"]
    assert '"dimat-digits-authority:6999"' in found[0]["data"]["cluster.json"]


# Keys


def test_the_file_for_everybody_has_no_key(tmp_path):
    text = identities(training(), tmp_path / "cluster", Setting())
    public = rendered(training(), "kubernetes", Setting())
    for private in objects(text)["Secret"]["data"].values():
        assert private not in public and base64.b64decode(private).decode() not in public


def test_every_pod_is_mounted_the_keys_of_the_node_of_its_number(tmp_path):
    found = objects(identities(training(), tmp_path / "cluster", Setting()))
    valid(found)
    run = RunDirectory.open(tmp_path / "cluster")
    secret = found["Secret"]["data"]
    mounted = {volume["name"]: volume for volume in pod(training())["volumes"]}["keys"]["secret"]
    assert mounted["secretName"] == found["Secret"]["metadata"]["name"]
    for item in mounted["items"]:
        folder, name = item["path"].split("/")
        own = run.nodes / f"peer-{folder.rpartition('-')[2]}" / name
        assert base64.b64decode(secret[item["key"]]) == own.read_bytes()
    assert len(mounted["items"]) == len(secret) == 2 * len(OWN)
    keys = [mount for mount in container(training())["volumeMounts"] if mount["name"] == "keys"]
    assert keys[0]["subPathExpr"] == "$(POD)" and keys[0]["readOnly"]


def test_addresses_are_the_names_that_pods_have(tmp_path):
    found = objects(identities(training(), tmp_path / "cluster", Setting(port=7777)))
    assert "dimat-digits-1.dimat-digits:7777" in found["ConfigMap"]["data"]["cluster.json"]
    assert set(found["ConfigMap"]["data"]) == {"run.json", "cluster.json", "trust.toml"}


def test_plugins_are_where_the_cluster_s_file_says(tmp_path):
    setting = Setting(plugins=(Path(__file__),))
    found = objects(identities(training(), tmp_path / "cluster", setting))["ConfigMap"]["data"]
    valid(objects(identities(training(), tmp_path / "cluster", setting)))
    (named,) = json.loads(found["cluster.json"])["plugins"]
    assert found["test_kubernetes.py"] == Path(__file__).read_text()
    files = {volume["name"]: volume for volume in pod(training(), setting)["volumes"]}["files"]["projected"]
    items = {item["path"]: item["key"] for item in files["sources"][1]["configMap"]["items"]}
    assert items[named] == "test_kubernetes.py"


def test_the_authority_s_key_stays_where_it_was_made(tmp_path):
    text = identities(training(), tmp_path / "cluster", Setting())
    key = (tmp_path / "cluster" / "authority" / "authority.pem").read_bytes()
    assert all(base64.b64decode(data) != key for data in objects(text)["Secret"]["data"].values())
    own = key[key.index(b"-----BEGIN PRIVATE KEY") :].splitlines()[1].decode()
    assert own not in text


def test_made_again_everybody_is_who_he_was(tmp_path):
    assert identities(training(), tmp_path / "c", Setting()) == identities(training(), tmp_path / "c", Setting())


def test_what_no_object_can_hold_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(kubernetes, "MOST", 1000)
    with pytest.raises(UserError, match="keys of so many nodes take"):
        identities(training(), Path(tmp_path) / "cluster", Setting())
