"""A recipe's nodes as a StatefulSet of Kubernetes: node K of the plan is pod K, with a name and a volume that stay.

What everybody may read is in one file; whose keys are whose is in another, which is made with the keys and is as secret
as they are. A pod's container is shown its own keys alone.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from decentral.errors import UserError
from decentral.launch.apart import AUTHORITY_PORT, OWN, PLUGINS, addresses, names_of, settle
from decentral.launch.cluster import FILE as CLUSTER
from decentral.launch.render import (
    HEALTH,
    USER,
    Setting,
    check_in_image,
    documents,
    label_of,
    metrics_arguments,
    needs_data,
    plugin_texts,
    reached_at,
)
from decentral.run.directory import ABOUT, STAGES, ServingDirectory
from decentral.run.experiment import FILE as RECIPE
from decentral.run.recipe import Recipe
from decentral.run.serving_recipe import ServingRecipe
from decentral.trust.anchors import FILE as TRUST
from decentral.wire.register import VOICE

NAME, IDENTITIES, FOLDER = "kubernetes.yaml", "identities.yaml", "cluster"
"""The file for everybody, that with the keys, and the folder with the authority, which stays with who made it."""
FILES, KEYS = "/etc/decentral", "/etc/decentral-keys"
"""Where a container has them."""
STORAGE = "1Gi"
METRICS = "metrics"
"""The name of the port."""
MOST = 1 << 20
"""Bytes that a ConfigMap or a Secret holds."""


def rendered(recipe: Recipe | ServingRecipe, setting: Setting) -> str:
    """Everything but keys, and what names them. Raises RecipeError that names the key alone."""
    check_in_image(recipe)
    return documents(
        _comment(recipe, setting),
        object_of("v1", "ConfigMap", f"{label_of(recipe)}-recipe", recipe, data={RECIPE: recipe.to_yaml()}),
        _service(recipe, setting),
        _policy(recipe, setting),
        _set(recipe, setting),
        *(_authority(recipe, setting) if setting.renew else []),
    )


def identities(recipe: Recipe | ServingRecipe, folder: Path, setting: Setting) -> str:
    """The keys of all nodes, and the cluster that names them; both made in `folder` where they are not there yet.

    A model that is served is trained there first, if it has to be. Blocking. Raises UserError.
    """
    label, names = label_of(recipe), names_of(recipe)
    hosts = reached_at(recipe, lambda index, name: f"{label}-{index}.{label}")
    listening, granting = addresses(hosts, names, setting.port), granting_at(recipe, setting)
    directory = settle(recipe, folder, listening, authority=granting, plugins=setting.plugins)
    public = {name: (directory.path / name).read_text() for name in (ABOUT, CLUSTER, TRUST)} | plugin_texts(setting)
    stages, coming = {}, {name: text.encode() for name, text in public.items()}
    if isinstance(directory, ServingDirectory):
        stages = {file.name: file.read_bytes() for file in sorted(directory.stages.iterdir())}
    keys = {
        _entry(index, name): (directory.nodes / node / name).read_bytes()
        for index, node in enumerate(names)
        for name in OWN
    }
    _check_size("the keys of so many nodes", keys)
    _check_size("what is to be known of so many nodes, or the stages of this model,", coming | stages)
    renewal = [
        "Certificates last seven days: `decentral render ... --force` to the same folder renews them in their last",
        f"day; apply it, and `kubectl rollout restart statefulset/{label}`.",
    ]
    if setting.renew:
        renewal = ["The authority's key is among this: whoever has it lets anybody in."]
    return documents(
        [f"Who the nodes of {recipe.name} are. SECRET: private keys. Keep it out of repositories.", *renewal],
        object_of("v1", "ConfigMap", f"{label}-cluster", recipe, data=public, binaryData=_coded(stages)),
        object_of("v1", "Secret", f"{label}-keys", recipe, type="Opaque", data=_coded(keys)),
        *([_entrusted(recipe, directory.authority)] if setting.renew else []),
    )


def _check_size(what: str, content: Mapping[str, bytes]) -> None:
    size = sum(len(name) + len(data) for name, data in content.items())
    if size > MOST:
        raise UserError(f"--to kubernetes: {what} take {size} bytes, and an object there holds {MOST}")


def _coded(content: Mapping[str, bytes]) -> dict[str, str]:
    return {name: base64.b64encode(data).decode() for name, data in content.items()}


def _entry(index: int, name: str) -> str:
    """What a file of node `index` is called in the Secret."""
    return f"{index}.{name}"


def _comment(recipe: Recipe | ServingRecipe, setting: Setting) -> list[str]:
    label = label_of(recipe)
    lines = [
        f"The nodes of {recipe.name} (hash {recipe.hash[:16]}) as a StatefulSet: made by `decentral render`.",
        "",
        f"  kubectl apply --server-side -f {IDENTITIES} -f {NAME}",
        "",
        f"{IDENTITIES} is made by `decentral render ... --to kubernetes --out DIR`, with the keys.",
        "Probes are commands: the built-in ones for gRPC show no certificate, and peers answer nobody without one.",
    ]
    if isinstance(recipe, Recipe):
        lines += ["A peer whose last round is over stays, and answers probes: a StatefulSet would start it again."]
        lines += [f"Results: `kubectl cp {label}-K:/runs K` for each, then `decentral gather {FOLDER} 0 1 ...`."]
    if needs_data(recipe):
        lines += [f"Datasets are on a PersistentVolumeClaim {label}-data, which many pods can read: make it before."]
    if setting.confidential is not None:
        lines += [
            f"RuntimeClass {setting.confidential} has to put each pod into a confidential virtual machine, as that of",
            "Confidential Containers does on hosts with Intel TDX or AMD SEV-SNP. It hides memory from the host; keys",
            "come from the cluster's Secret all the same, and nobody asks for evidence. No such cluster has run this.",
        ]
    return lines


def labels_of(recipe: Recipe | ServingRecipe) -> dict[str, str]:
    return {"app.kubernetes.io/name": "decentral", "app.kubernetes.io/instance": label_of(recipe)}


def _node_labels(recipe: Recipe | ServingRecipe) -> dict[str, str]:
    return {**labels_of(recipe), "app.kubernetes.io/component": "node"}


def _authority_labels(recipe: Recipe | ServingRecipe) -> dict[str, str]:
    return {**labels_of(recipe), "app.kubernetes.io/component": "authority"}


def granting_at(recipe: Recipe | ServingRecipe, setting: Setting) -> str:
    """Where nodes renew their certificates; empty where they do not."""
    return f"{_authority_name(recipe)}:{AUTHORITY_PORT}" if setting.renew else ""


def _authority_name(recipe: Recipe | ServingRecipe) -> str:
    return f"{label_of(recipe)}-authority"


def object_of(version: str, kind: str, name: str, recipe: Recipe | ServingRecipe, **content: Any) -> dict[str, Any]:
    """Without what is empty."""
    given = {key: value for key, value in content.items() if value != {}}
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "labels": labels_of(recipe)}, **given}


def _service(recipe: Recipe | ServingRecipe, setting: Setting) -> dict[str, Any]:
    """Gives every pod a name. Pods that are not ready have theirs: peers wait for one another to become so."""
    spec = {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": _node_labels(recipe),
        "ports": [
            {"name": "grpc", "port": setting.port, "targetPort": "grpc", "appProtocol": "grpc"},
            *([] if setting.metrics is None else [{"name": METRICS, "port": setting.metrics, "targetPort": METRICS}]),
        ],
    }
    return object_of("v1", "Service", label_of(recipe), recipe, spec=spec)


def _policy(recipe: Recipe | ServingRecipe, setting: Setting) -> dict[str, Any]:
    """Nodes talk to nodes, and to who tells them where those are; clients may ask nodes that serve."""
    nodes = [{"podSelector": {"matchLabels": _node_labels(recipe)}}]
    clients = [{"podSelector": {"matchLabels": {**labels_of(recipe), "app.kubernetes.io/component": "client"}}}]
    port = [{"protocol": "TCP", "port": setting.port}]
    names = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}
    authority = [{"podSelector": {"matchLabels": _authority_labels(recipe)}}]
    granting = [{"to": authority, "ports": [{"protocol": "TCP", "port": AUTHORITY_PORT}]}] if setting.renew else []
    spec = {
        "podSelector": {"matchLabels": _node_labels(recipe)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {"from": nodes + (clients if isinstance(recipe, ServingRecipe) else []), "ports": port},
            *([] if setting.metrics is None else [_watched(setting.metrics)]),
        ],
        "egress": [
            {"to": nodes, "ports": port},
            *granting,
            {"to": [names], "ports": [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]},
        ],
    }
    return object_of("networking.k8s.io/v1", "NetworkPolicy", label_of(recipe), recipe, spec=spec)


def _watched(port: int) -> dict[str, Any]:
    """Monitoring alone may ask for metrics: pods of that name, in whatever namespace they are."""
    monitoring = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}}}
    return {"from": [monitoring], "ports": [{"protocol": "TCP", "port": port}]}


def _metadata(recipe: Recipe | ServingRecipe, setting: Setting) -> dict[str, Any]:
    """Of each pod; the annotations are those by which Prometheus is usually told whom to ask."""
    if setting.metrics is None:
        return {"labels": _node_labels(recipe)}
    asked = {"scrape": "true", "port": str(setting.metrics), "path": "/metrics"}
    annotations = {f"prometheus.io/{key}": value for key, value in asked.items()}
    return {"labels": _node_labels(recipe), "annotations": annotations}


def _set(recipe: Recipe | ServingRecipe, setting: Setting) -> dict[str, Any]:
    label = label_of(recipe)
    claim = {
        "metadata": {"name": "runs"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": STORAGE}}},
    }
    spec = {
        "serviceName": label,
        "replicas": len(names_of(recipe)),
        "podManagementPolicy": "Parallel",
        "selector": {"matchLabels": _node_labels(recipe)},
        "template": {"metadata": _metadata(recipe, setting), "spec": _pod(recipe, setting)},
        "volumeClaimTemplates": [claim],
    }
    return object_of("apps/v1", "StatefulSet", label, recipe, spec=spec)


def _pod(recipe: Recipe | ServingRecipe, setting: Setting) -> dict[str, Any]:
    pod = hardened(_container(recipe, setting), _volumes(recipe, setting), setting)
    if setting.gpu:
        pod["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    return pod


def hardened(container: dict[str, Any], volumes: list[dict[str, Any]], setting: Setting) -> dict[str, Any]:
    """A pod as the restricted profile of Kubernetes wants it, and nothing of its filesystem to write to."""
    rights = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 30,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [{**container, "securityContext": rights}],
        "volumes": volumes,
        **({} if setting.confidential is None else {"runtimeClassName": setting.confidential}),
    }


def _container(recipe: Recipe | ServingRecipe, setting: Setting) -> dict[str, Any]:
    requests = {"cpu": str(recipe.threads), "memory": setting.memory}
    limits = {"memory": setting.memory, **({"nvidia.com/gpu": 1} if setting.gpu else {})}
    stay = ["--stay"] if isinstance(recipe, Recipe) else []
    start = ["node", "/runs", "--from", FILES, "--keys", KEYS]
    everywhere = "0.0.0.0"  # noqa: S104  of the pod; the policy says who may call
    return {
        "name": "node",
        "image": setting.image,
        "imagePullPolicy": "IfNotPresent",
        "args": [*start, "--listen", everywhere, *stay, *metrics_arguments(setting)],
        "env": [
            {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "HOME", "value": "/tmp"},  # noqa: S108  in the container
            {"name": "DECENTRAL_DATA", "value": "/data"},
        ],
        "ports": [
            {"name": "grpc", "containerPort": setting.port},
            *([] if setting.metrics is None else [{"name": METRICS, "containerPort": setting.metrics}]),
        ],
        "volumeMounts": [
            {"name": "runs", "mountPath": "/runs"},
            {"name": "files", "mountPath": FILES, "readOnly": True},
            {"name": "keys", "mountPath": KEYS, "subPathExpr": "$(POD)", "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
            *([{"name": "data", "mountPath": "/data", "readOnly": True}] if needs_data(recipe) else []),
        ],
        "startupProbe": _probe(period=5, failures=60),
        "readinessProbe": _probe(period=30, failures=2),
        "livenessProbe": _probe(period=60, failures=5),
        "resources": {"requests": requests, "limits": limits},
    }


def _probe(period: int, failures: int) -> dict[str, Any]:
    return {
        "exec": {"command": list(HEALTH)},
        "periodSeconds": period,
        "timeoutSeconds": 10,
        "failureThreshold": failures,
    }


def _volumes(recipe: Recipe | ServingRecipe, setting: Setting) -> list[dict[str, Any]]:
    """The projected folder is laid out as a run directory is; that of the keys has one folder for each pod."""
    label, names = label_of(recipe), names_of(recipe)
    files: list[dict[str, Any]] = [{"key": name, "path": name} for name in (ABOUT, CLUSTER, TRUST)]
    files += [{"key": name, "path": f"{PLUGINS}/{name}"} for name in plugin_texts(setting)]
    if isinstance(recipe, ServingRecipe):
        places = [f"stage-{place}.safetensors" for place in range(len(recipe.parts))]
        files += [{"key": name, "path": f"{STAGES}/{name}"} for name in ("network.json", *places)]
    public = [
        {"configMap": {"name": f"{label}-recipe"}},
        {"configMap": {"name": f"{label}-cluster", "items": files}},
    ]
    items = [
        {"key": _entry(index, name), "path": f"{label}-{index}/{name}"} for index in range(len(names)) for name in OWN
    ]
    volumes = [
        {"name": "files", "projected": {"sources": public}},
        {"name": "keys", "secret": {"secretName": f"{label}-keys", "defaultMode": 0o440, "items": items}},
        {"name": "tmp", "emptyDir": {}},
    ]
    if needs_data(recipe):
        claim = {"claimName": f"{label}-data", "readOnly": True}
        volumes.append({"name": "data", "persistentVolumeClaim": claim})
    return volumes


def _entrusted(recipe: Recipe | ServingRecipe, folder: Path) -> dict[str, Any]:
    """The authority's key, for the pod that renews certificates."""
    content = {VOICE: (folder / VOICE).read_bytes()}
    return object_of("v1", "Secret", _authority_name(recipe), recipe, type="Opaque", data=_coded(content))


def _authority(recipe: Recipe | ServingRecipe, setting: Setting) -> list[dict[str, Any]]:
    """The pod that renews certificates, its name, and who may ask it: nodes, and it asks nobody."""
    name, labels = _authority_name(recipe), _authority_labels(recipe)
    small = {"cpu": "100m", "memory": "256Mi"}
    container = {
        "name": "authority",
        "image": setting.image,
        "imagePullPolicy": "IfNotPresent",
        "args": ["authority", "/runs", "--from", FILES],
        "ports": [{"name": "grpc", "containerPort": AUTHORITY_PORT}],
        "volumeMounts": [
            {"name": "runs", "mountPath": "/runs"},
            {"name": "key", "mountPath": FILES, "readOnly": True},
        ],
        "readinessProbe": {"tcpSocket": {"port": "grpc"}, "periodSeconds": 10},
        "livenessProbe": {"tcpSocket": {"port": "grpc"}, "periodSeconds": 30, "initialDelaySeconds": 30},
        "resources": {"requests": small, "limits": {"memory": small["memory"]}},
    }
    volumes = [
        {"name": "runs", "emptyDir": {"medium": "Memory"}},
        {"name": "key", "secret": {"secretName": name, "defaultMode": 0o440}},
    ]
    deployment = {
        "replicas": 1,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": hardened(container, volumes, setting)},
    }
    service = {"selector": labels, "ports": [{"name": "grpc", "port": AUTHORITY_PORT, "targetPort": "grpc"}]}
    policy = {
        "podSelector": {"matchLabels": labels},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {
                "from": [{"podSelector": {"matchLabels": _node_labels(recipe)}}],
                "ports": [{"protocol": "TCP", "port": AUTHORITY_PORT}],
            }
        ],
    }
    return [
        object_of("v1", "Service", name, recipe, spec=service),
        object_of("networking.k8s.io/v1", "NetworkPolicy", name, recipe, spec=policy),
        object_of("apps/v1", "Deployment", name, recipe, spec=deployment),
    ]
