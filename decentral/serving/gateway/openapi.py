"""What a gateway understands and answers, for programs that make clients of it (OpenAPI 3.1)."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from decentral.serving.gateway.bodies import BASE64, DTYPES, ID, JSON, NPY, SAFETENSORS

PROBLEM = "application/problem+json"
NUMBERS = {"type": "array", "items": {}, "description": "Numbers in lists of lists; the first axis is that of samples."}
BINARY = {"schema": {"type": "string", "format": "binary"}}
TEXTS = {"type": "array", "items": {"type": "string"}}

SCHEMAS: dict[str, Any] = {
    "Request": {
        "type": "object",
        "required": ["inputs"],
        "additionalProperties": False,
        "properties": {
            "inputs": {"oneOf": [NUMBERS, {"type": "object", "additionalProperties": NUMBERS}]},
            "dtype": {"enum": list(DTYPES), "default": "float32"},
            "policy": {"$ref": "#/components/schemas/Policy"},
            "receipt": {"enum": [ID, BASE64], "default": ID},
        },
    },
    "Policy": {
        "type": "object",
        "description": "What the answer needs; what is left out is as the cluster's own policy has it.",
        "additionalProperties": False,
        "properties": {
            "replicas": {"type": "integer", "minimum": 0},
            "quorum": {"type": "integer", "minimum": 0},
            "faulty": {"type": "integer", "minimum": 0},
            "tolerance": {"type": "number", "minimum": 0, "maximum": 1},
            "require": {"type": "array", "items": {"enum": ["consensus", "zk", "attestation"]}},
            "audits": {"oneOf": [{"const": "always"}, {"type": "number", "minimum": 0, "maximum": 1}]},
            "proofs": {"oneOf": [{"const": "always"}, {"type": "number", "minimum": 0, "maximum": 1}]},
            "proof_parts": {"enum": ["all", "head"]},
            "allow_simulated": {"type": "boolean"},
            "leakage": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
        },
    },
    "Fault": {
        "type": "object",
        "description": "What a peer did wrong on the way to this answer.",
        "properties": {name: {"type": "string"} for name in ("kind", "node", "id", "part", "detail")},
    },
    "Receipt": {
        "type": "object",
        "required": ["id", "bytes"],
        "properties": {
            "id": {"type": "string", "pattern": "^[0-9a-f]{64}$", "description": "SHA-256 of the receipt."},
            "bytes": {"type": "integer"},
            "base64": {"type": "string", "contentEncoding": "base64"},
        },
    },
    "Answer": {
        "type": "object",
        "required": ["output", "outputs", "labels", "verdict", "findings", "faults", "receipt", "cost"],
        "properties": {
            "output": NUMBERS,
            "outputs": {"type": "object", "additionalProperties": NUMBERS},
            "labels": {
                "type": "array",
                "items": {"type": ["integer", "null"]},
                "description": "Of a classifier: the class of each sample; null if honest machines could differ on it.",
            },
            "verdict": {
                "type": "object",
                "properties": {"valid": {"type": "boolean"}, "reasons": TEXTS},
            },
            "findings": {"type": "array", "items": {"type": "object"}},
            "faults": {"type": "array", "items": {"$ref": "#/components/schemas/Fault"}},
            "receipt": {"$ref": "#/components/schemas/Receipt"},
            "cost": {"type": "object", "additionalProperties": {"type": "number"}},
        },
    },
    "Problem": {
        "type": "object",
        "description": "RFC 9457. Where no answer was accepted, with `faults` and the `receipt` of what was said.",
        "required": ["title", "status", "detail"],
        "properties": {
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "faults": {"type": "array", "items": {"$ref": "#/components/schemas/Fault"}},
            "receipt": {"$ref": "#/components/schemas/Receipt"},
        },
    },
}

PROBLEMS = {
    "400": "The request is not of this form.",
    "401": "There is no token, or not the right one.",
    "404": "There is nothing of that name.",
    "408": "The body did not come in time.",
    "413": "The body is too large.",
    "415": "The body is of another type.",
    "422": "The model does not take this, or the cluster cannot meet the policy.",
    "429": "Too much is under way: come back after Retry-After seconds.",
    "502": "There is no answer that the policy accepts, or the cluster does not answer.",
    "503": "Proofs cannot be verified here.",
    "504": "The cluster did not answer in time, of which the gateway's --timeout gives more.",
}


def document(most_bytes: int) -> dict[str, Any]:
    """`most_bytes`: of a body."""
    policy = {"name": "policy", "in": "query", "schema": {"type": "string"}, "description": "A Policy, as JSON."}
    receipt = {"name": "receipt", "in": "query", "schema": {"enum": [ID, BASE64], "default": ID}}
    name = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
    request = {
        "required": True,
        "content": {JSON: _schema("Request"), NPY: BINARY, SAFETENSORS: BINARY},
        "description": f"At most {most_bytes} bytes. The parameters are for bodies that are no JSON.",
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "decentral gateway",
            "description": "A model that peers serve who do not trust one another; answers carry evidence.",
            "version": importlib.metadata.version("decentral"),
        },
        "security": [{"token": []}],
        "paths": {
            "/v1/predict": {
                "post": {
                    "operationId": "predict",
                    "summary": "Ask the model about a batch.",
                    "parameters": [policy, receipt],
                    "requestBody": request,
                    "responses": {"200": _answer("Answer"), **_problems("400 401 408 413 415 422 429 502 503 504")},
                }
            },
            "/v1/receipts/{id}": {
                "get": {
                    "operationId": "receipt",
                    "summary": "The evidence for an answer, as `decentral verify` reads it.",
                    "parameters": [name],
                    "responses": {"200": _answer(None), **_problems("401 404")},
                }
            },
            "/v1/model": {
                "get": {
                    "operationId": "model",
                    "summary": "What is served: its parts, their digests, what it takes, and the cluster's policy.",
                    "responses": {"200": _answer(None), **_problems("401")},
                }
            },
            "/v1/health": {
                "get": {
                    "operationId": "health",
                    "summary": "Whether the gateway is up.",
                    "security": [],
                    "responses": {"200": _answer(None)},
                }
            },
        },
        "components": {"schemas": SCHEMAS, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


def _schema(name: str | None) -> dict[str, Any]:
    return {"schema": {"type": "object"} if name is None else {"$ref": f"#/components/schemas/{name}"}}


def _answer(name: str | None) -> dict[str, Any]:
    return {"description": "So it is.", "content": {JSON: _schema(name)}}


def _problems(statuses: str) -> dict[str, Any]:
    content = {PROBLEM: _schema("Problem")}
    return {status: {"description": PROBLEMS[status], "content": content} for status in statuses.split()}
