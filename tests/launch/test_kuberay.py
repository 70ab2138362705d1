"""A run as a RayJob: its fields are those that KubeRay has, its pods are as their schema has them, and hardened."""

from __future__ import annotations

from pathlib import Path

import pytest

from decentral.errors import UserError
from decentral.launch.ray.options import RayOptions
from decentral.launch.render import Setting, rendered
from tests.launch.rendered import objects, serving, training

JOB = {
    "activeDeadlineSeconds", "backoffLimit", "rayClusterSpec", "submitterPodTemplate", "metadata", "clusterSelector",
    "submitterConfig", "managedBy", "deletionStrategy", "entrypoint", "runtimeEnvYAML", "jobId", "submissionMode",
    "entrypointResources", "entrypointNumCpus", "entrypointNumGpus", "ttlSecondsAfterFinished",
    "shutdownAfterJobFinishes", "suspend",
}  # fmt: skip
"""Of a RayJob's spec in ray.io/v1, as the operator's types name them; there and below."""
CLUSTER = {
    "headGroupSpec", "workerGroupSpecs", "rayVersion", "enableInTreeAutoscaling", "autoscalerOptions",
    "headServiceAnnotations", "suspend",
}  # fmt: skip
HEAD = {"serviceType", "headService", "enableIngress", "rayStartParams", "template"}
WORKERS = {
    "groupName", "replicas", "minReplicas", "maxReplicas", "numOfHosts", "rayStartParams", "template", "scaleStrategy",
}  # fmt: skip
SETTINGS = [
    pytest.param(training(), Setting(), id="plain"),
    pytest.param(training("data.name=cifar10", "threads=2"), Setting(gpu=True), id="on GPUs"),
    pytest.param(training(), Setting(plugins=(Path(__file__),)), id="with a plugin"),
]


def job(recipe, setting=None):
    return objects(rendered(recipe, "kuberay", setting or Setting()))["RayJob"]["spec"]


def templates(spec):
    cluster = spec["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    return [spec["submitterPodTemplate"], cluster["headGroupSpec"]["template"], workers["template"]]


@pytest.mark.parametrize(("recipe", "setting"), SETTINGS)
def test_every_field_is_one_that_kuberay_has(recipe, setting):
    found = objects(rendered(recipe, "kuberay", setting))["RayJob"]
    assert (found["apiVersion"], found["kind"]) == ("ray.io/v1", "RayJob")
    spec = found["spec"]
    cluster = spec["rayClusterSpec"]
    assert set(spec) <= JOB and set(cluster) <= CLUSTER and set(cluster["headGroupSpec"]) <= HEAD
    for workers in cluster["workerGroupSpecs"]:
        assert {"groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"} <= set(workers) <= WORKERS
        assert all(isinstance(value, str) for value in workers["rayStartParams"].values())


@pytest.mark.parametrize(("recipe", "setting"), SETTINGS)
def test_pods_and_all_else_are_as_their_schemas_have_them(recipe, setting):
    schemas = pytest.importorskip("kubernetes_validate")
    found = objects(rendered(recipe, "kuberay", setting))
    spec = found.pop("RayJob")["spec"]
    pods = [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **one} for one in templates(spec)]
    for one in [*found.values(), *({**pod, "metadata": {"name": "x", **pod["metadata"]}} for pod in pods)]:
        schemas.validate(one, schemas.latest_version(), strict=True)


@pytest.mark.parametrize(("recipe", "setting"), SETTINGS)
def test_no_pod_has_a_right_too_many_and_what_it_writes_to_is_a_volume(recipe, setting):
    for template in templates(job(recipe, setting)):
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] and spec["automountServiceAccountToken"] is False
        (one,) = spec["containers"]
        assert one["securityContext"]["readOnlyRootFilesystem"]
        assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        mounts = {mount["name"]: mount for mount in one["volumeMounts"]}
        assert {volume["name"] for volume in spec["volumes"]} == set(mounts)
        assert {mounts[name]["mountPath"] for name in ("tmp", "memory")} == {"/tmp", "/dev/shm"}
        assert one["resources"]["limits"]["memory"]


def test_there_is_a_pod_for_each_peer_with_what_a_peer_asks_ray_for():
    recipe = training("peers=7", "threads=2")
    cluster = job(recipe)["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["replicas"] == workers["minReplicas"] == workers["maxReplicas"] == 7
    assert float(workers["rayStartParams"]["num-cpus"]) == RayOptions().demand(recipe)["CPU"]
    assert workers["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"] == "2"
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_the_head_alone_has_the_run_and_every_peer_a_gpu_where_it_is_asked_for():
    submitter, head, worker = templates(job(training(), Setting(gpu=True)))
    claims = [
        {volume["name"] for volume in one["spec"]["volumes"] if "persistentVolumeClaim" in volume}
        for one in (submitter, head, worker)
    ]
    assert claims == [set(), {"runs"}, set()]
    limits = [one["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu") for one in (head, worker)]
    assert limits == [None, 1]


def test_pods_talk_among_themselves_and_the_operator_asks_for_the_job_alone():
    found = objects(rendered(training(), "kuberay", Setting()))
    policy = found["NetworkPolicy"]["spec"]
    for template in templates(found["RayJob"]["spec"]):
        assert policy["podSelector"]["matchLabels"] == template["metadata"]["labels"]
    own, operator = policy["ingress"]
    assert own == {"from": [{"podSelector": policy["podSelector"]}]}
    assert operator["ports"] == [{"protocol": "TCP", "port": 8265}]
    assert policy["egress"][0]["to"] == own["from"]


def test_what_is_run_is_the_recipe_of_the_file():
    found = objects(rendered(training(), "kuberay", Setting()))
    assert "decentral run /etc/decentral/recipe.yaml --on ray --address auto" in found["RayJob"]["spec"]["entrypoint"]
    assert list(found["ConfigMap"]["data"]) == ["recipe.yaml"]


def test_a_recipe_that_serves_is_refused():
    with pytest.raises(UserError, match="recipes that train"):
        rendered(serving(), "kuberay", Setting())


def test_the_launcher_is_told_of_plugins_where_its_pod_has_them():
    setting = Setting(plugins=(Path(__file__),))
    found = objects(rendered(training(), "kuberay", setting))
    assert found["ConfigMap"]["data"]["test_kuberay.py"] == Path(__file__).read_text()
    assert job(training(), setting)["entrypoint"].endswith(" --plugin /etc/decentral/test_kuberay.py")
    assert "--plugin" not in job(training())["entrypoint"]
