"""A recipe's run as a RayJob of KubeRay: a Ray cluster of pods, and the launcher as a job on its first one.

The pods are hardened as those of `launch.kubernetes` are. Keys are made by the launcher when it runs, so that no Secret
is needed: whoever can submit jobs to the cluster, or is in its network, is trusted as an owner of this machine is.
"""

from __future__ import annotations

from typing import Any

from decentral.errors import UserError
from decentral.launch.apart import names_of
from decentral.launch.kubernetes import FILES, STORAGE, hardened, labels_of, object_of
from decentral.launch.render import Setting, check_in_image, documents, label_of, needs_data, plugin_texts
from decentral.run.experiment import FILE as RECIPE
from decentral.run.recipe import Recipe
from decentral.run.serving_recipe import ServingRecipe

NAME = "kuberay.yaml"
RAY = "2.60.0"
"""The version in the image: KubeRay wants to know it."""
DASHBOARD = 8265
"""Where jobs are submitted, and the operator asks how they are."""
OPERATOR = "kuberay-operator"
SHARED_MEMORY = "512Mi"
"""Of each pod for Ray's objects: parcels and datasets."""


def rendered(recipe: Recipe | ServingRecipe, setting: Setting) -> str:
    """All of it. Raises RecipeError that names the key alone, and UserError for a recipe that serves."""
    if isinstance(recipe, ServingRecipe):
        raise UserError("--to kuberay: Ray runs recipes that train; render one that serves with --to kubernetes")
    check_in_image(recipe)
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": STORAGE}}}
    return documents(
        _comment(recipe, setting),
        object_of(
            "v1",
            "ConfigMap",
            f"{label_of(recipe)}-recipe",
            recipe,
            data={RECIPE: recipe.to_yaml(), **plugin_texts(setting)},
        ),
        object_of("v1", "PersistentVolumeClaim", f"{label_of(recipe)}-runs", recipe, spec=claim),
        _policy(recipe),
        object_of("ray.io/v1", "RayJob", label_of(recipe), recipe, spec=_job(recipe, setting)),
    )


def _command(recipe: Recipe, setting: Setting) -> str:
    """The launcher's."""
    plugins = "".join(f" --plugin {FILES}/{file.name}" for file in setting.plugins)
    return f"decentral run {FILES}/{RECIPE} --on ray --address auto --out /runs/{label_of(recipe)}{plugins}"


def _comment(recipe: Recipe, setting: Setting) -> list[str]:
    label = label_of(recipe)
    lines = [
        f"A run of {recipe.name} (hash {recipe.hash[:16]}) as a RayJob of KubeRay: made by `decentral render`.",
        "",
        f"  kubectl apply --server-side -f {NAME}",
        f"  kubectl get rayjob {label} --watch",
        "",
        "The image has Ray: made from our Dockerfile with --build-arg EXTRAS=ray.",
        f"Results are in the volume {label}-runs, in /runs/{label}, which the head pod has. A run that was interrupted",
        f"goes on by: {_command(recipe, setting)} --resume",
    ]
    if needs_data(recipe):
        lines += [f"Datasets are on a PersistentVolumeClaim {label}-data, which many pods can read: make it before."]
    return lines


def _job(recipe: Recipe, setting: Setting) -> dict[str, Any]:
    """The cluster has a pod for each peer, where the nodes of Kubernetes have room; the head has no peer."""
    peers = len(names_of(recipe))
    requests = {"cpu": str(recipe.threads), "memory": setting.memory}
    gpu = {"nvidia.com/gpu": 1} if setting.gpu else {}
    workers: dict[str, Any] = {
        "groupName": "peers",
        "replicas": peers,
        "minReplicas": peers,
        "maxReplicas": peers,
        "rayStartParams": {"num-cpus": str(recipe.threads)},
        "template": _template(recipe, setting, _container("ray-worker", requests, gpu, recipe, setting)),
    }
    if setting.gpu:
        tolerations = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
        workers["template"]["spec"]["tolerations"] = tolerations
    head = _container("ray-head", {"cpu": "1", "memory": setting.memory}, {}, recipe, setting)
    head["volumeMounts"].append({"name": "runs", "mountPath": "/runs"})
    small = _container("ray-job-submitter", {"cpu": "100m", "memory": "512Mi"}, {}, recipe, setting)
    submitter = _template(recipe, setting, small)
    submitter["spec"]["restartPolicy"] = "Never"
    return {
        "entrypoint": _command(recipe, setting),
        "submissionMode": "K8sJobMode",
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 600,
        "backoffLimit": 0,
        "submitterPodTemplate": submitter,
        "rayClusterSpec": {
            "rayVersion": RAY,
            "headGroupSpec": {
                "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},  # noqa: S104  the policy says who
                "template": _template(recipe, setting, head, runs=True),
            },
            "workerGroupSpecs": [workers],
        },
    }


def _template(recipe: Recipe, setting: Setting, container: dict[str, Any], *, runs: bool = False) -> dict[str, Any]:
    label = label_of(recipe)
    volumes: list[dict[str, Any]] = [
        {"name": "files", "configMap": {"name": f"{label}-recipe"}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": SHARED_MEMORY}},
    ]
    if runs:
        volumes.append({"name": "runs", "persistentVolumeClaim": {"claimName": f"{label}-runs"}})
    if needs_data(recipe):
        claim = {"claimName": f"{label}-data", "readOnly": True}
        volumes.append({"name": "data", "persistentVolumeClaim": claim})
    return {"metadata": {"labels": labels_of(recipe)}, "spec": hardened(container, volumes, setting)}


def _container(
    name: str, requests: dict[str, str], gpu: dict[str, int], recipe: Recipe, setting: Setting
) -> dict[str, Any]:
    """KubeRay gives it its command, and its probes."""
    return {
        "name": name,
        "image": setting.image,
        "imagePullPolicy": "IfNotPresent",
        "env": [
            {"name": "HOME", "value": "/tmp"},  # noqa: S108  in the container
            {"name": "DECENTRAL_DATA", "value": "/data"},
            {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"},
        ],
        "volumeMounts": [
            {"name": "files", "mountPath": FILES, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
            {"name": "memory", "mountPath": "/dev/shm"},  # noqa: S108
            *([{"name": "data", "mountPath": "/data", "readOnly": True}] if needs_data(recipe) else []),
        ],
        "resources": {"requests": requests, "limits": {"memory": requests["memory"], **gpu}},
    }


def _policy(recipe: Recipe) -> dict[str, Any]:
    """The pods talk among themselves, on whatever ports Ray and the peers choose; the operator asks how the job is."""
    own = [{"podSelector": {"matchLabels": labels_of(recipe)}}]
    operator = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app.kubernetes.io/name": OPERATOR}}}
    names = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}
    spec = {
        "podSelector": {"matchLabels": labels_of(recipe)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": own}, {"from": [operator], "ports": [{"protocol": "TCP", "port": DASHBOARD}]}],
        "egress": [
            {"to": own},
            {"to": [names], "ports": [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]},
        ],
    }
    return object_of("networking.k8s.io/v1", "NetworkPolicy", label_of(recipe), recipe, spec=spec)
