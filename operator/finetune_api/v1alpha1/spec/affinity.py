"""``podTemplate.affinity``: which nodes the pods want, and which pods beside them.

As in core/v1, but bounded, and among the pods of the job's own namespace: ``namespaces`` and
``namespaceSelector`` are left out.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.meta import ATOMIC_LIST, APIModel, Integer

MAX_TERMS, MAX_EXPRESSIONS, MAX_VALUES = 8, 16, 32

LabelKey = Annotated[str, Field(min_length=1, max_length=317)]
"""A prefix of at most 253 characters, a slash, and a name of at most 63."""
LabelValue = Annotated[str, Field(max_length=63)]
LabelValues = Annotated[
    list[LabelValue], Field(max_length=MAX_VALUES, json_schema_extra=ATOMIC_LIST)
]
Weight = Annotated[Integer, Field(ge=1, le=100)]


class NodeRequirement(APIModel):
    """What a label or a field of a node must be."""

    key: LabelKey
    """Label, or field."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
    """How it is compared with `values`."""
    values: LabelValues = []
    """What it is compared with."""


NodeRequirements = Annotated[
    list[NodeRequirement], Field(max_length=MAX_EXPRESSIONS, json_schema_extra=ATOMIC_LIST)
]


class NodeSelectorTerm(APIModel):
    """Requirements that a node must meet together."""

    match_expressions: NodeRequirements = []
    """On its labels."""
    match_fields: NodeRequirements = []
    """On its fields, such as `metadata.name`."""


class NodeSelector(APIModel):
    """Nodes that meet at least one term."""

    node_selector_terms: Annotated[
        list[NodeSelectorTerm],
        Field(min_length=1, max_length=MAX_TERMS, json_schema_extra=ATOMIC_LIST),
    ]
    """The terms."""


class PreferredSchedulingTerm(APIModel):
    """Nodes that are preferred."""

    weight: Weight
    """How much."""
    preference: NodeSelectorTerm
    """Which."""


class NodeAffinity(APIModel):
    """Which nodes the pods want."""

    required_during_scheduling_ignored_during_execution: NodeSelector | None = None
    """Nodes that pods may run on."""
    preferred_during_scheduling_ignored_during_execution: Annotated[
        list[PreferredSchedulingTerm],
        Field(max_length=MAX_TERMS, json_schema_extra=ATOMIC_LIST),
    ] = []
    """Nodes that are preferred among them."""


class LabelRequirement(APIModel):
    """What a label of a pod must be."""

    key: LabelKey
    """Label."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """How it is compared with `values`."""
    values: LabelValues = []
    """What it is compared with."""


class LabelSelector(APIModel):
    """Pods that have all these labels."""

    match_labels: Annotated[dict[LabelKey, LabelValue], Field(max_length=MAX_EXPRESSIONS)] = {}
    """Labels and their values."""
    match_expressions: Annotated[
        list[LabelRequirement],
        Field(max_length=MAX_EXPRESSIONS, json_schema_extra=ATOMIC_LIST),
    ] = []
    """Requirements on labels."""


class PodAffinityTerm(APIModel):
    """Pods of the job's namespace, and how near."""

    label_selector: LabelSelector | None = None
    """Which pods. Default: none."""
    topology_key: LabelKey
    """Label of nodes: those with the same value are near, for example `kubernetes.io/hostname`."""


class WeightedPodAffinityTerm(APIModel):
    """Pods that are preferred near, or far."""

    weight: Weight
    """How much."""
    pod_affinity_term: PodAffinityTerm
    """Which."""


class PodAffinity(APIModel):
    """Pods that the pods of the job want near, or far."""

    required_during_scheduling_ignored_during_execution: Annotated[
        list[PodAffinityTerm], Field(max_length=MAX_TERMS, json_schema_extra=ATOMIC_LIST)
    ] = []
    """What a node must fulfil."""
    preferred_during_scheduling_ignored_during_execution: Annotated[
        list[WeightedPodAffinityTerm],
        Field(max_length=MAX_TERMS, json_schema_extra=ATOMIC_LIST),
    ] = []
    """What is preferred among such nodes."""


class Affinity(APIModel):
    """Which nodes the pods want, and which pods beside them."""

    node_affinity: NodeAffinity | None = None
    """By labels and fields of nodes."""
    pod_affinity: PodAffinity | None = None
    """By pods that shall be near."""
    pod_anti_affinity: PodAffinity | None = None
    """By pods that shall be far."""

    @property
    def chooses_nodes(self) -> bool:
        """Whether it says anything of nodes."""
        return self.node_affinity not in (None, NodeAffinity())
