"""The HTTP interface, told as OpenAPI 3.1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from features import __version__


def describe_interface(class_names: Sequence[str], most_bytes: int) -> dict[str, Any]:
    """Return the description that ``/openapi.json`` gives and ``/docs`` shows."""
    chance = {"type": "number", "minimum": 0, "maximum": 1}
    answer = {
        "type": "object",
        "required": ["path", "class", "probability", "margin", "probabilities"],
        "properties": {
            "path": {"type": "string", "description": "the name given with the image"},
            "class": {"type": "string", "enum": list(class_names)},
            "probability": chance,
            "margin": {"type": "number", "description": "lead over the next class"},
            "probabilities": {"type": "object", "additionalProperties": chance},
            "set": {
                "type": "array",
                "items": {"type": "string"},
                "description": "classes that hold the true one with the probability that the run was trained for",
            },
            "novelty": {"type": "number", "description": "above 1: unlike all training images"},
            "unlike": {"type": "boolean"},
            "looked": {"type": ["string", "null"], "description": "with details: evidence by place, a PNG data URI"},
            "nearest": {
                "type": "array",
                "description": "with details: the nearest training images",
                "items": {
                    "type": "object",
                    "properties": {
                        "label": {"type": "string"},
                        "name": {"type": "string"},
                        "distance": {"type": "number"},
                        "image": {"type": "string"},
                    },
                },
            },
        },
    }
    error = {
        "description": "why not",
        "content": {
            "application/json": {
                "schema": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
            }
        },
    }
    query = [
        {"name": "name", "in": "query", "schema": {"type": "string", "maxLength": 200}, "description": "of the image"},
        {
            "name": "details",
            "in": "query",
            "schema": {"type": "boolean"},
            "description": "where the head looked, and neighbours",
        },
    ]
    return {
        "openapi": "3.1.0",
        "info": {"title": "cached-features", "version": __version__},
        "paths": {
            "/predict": {
                "post": {
                    "summary": "Classify one image",
                    "parameters": query,
                    "requestBody": {
                        "required": True,
                        "description": f"the image's file, at most {most_bytes:,} bytes",
                        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
                    },
                    "responses": {
                        "200": {
                            "description": "what is told of the image",
                            "content": {"application/json": {"schema": answer}},
                        },
                        "413": error,
                        "415": error,
                        "422": error,
                        "503": error,
                    },
                }
            }
        },
    }
