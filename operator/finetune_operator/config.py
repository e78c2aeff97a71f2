"""What an administrator decides: images, limits on tenants, where to watch, how hard to work.

One YAML or JSON file (the chart's ConfigMap), then environment variables
``FINETUNE_OPERATOR_<FIELD>``, then command-line flags; the later wins. Nothing here can be set by
a tenant.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

import yaml
from pydantic import Field, ValidationError
from pydantic.alias_generators import to_camel

from finetune_operator.tenants import NamespacePolicy, TenantSettings

ENVIRONMENT_PREFIX = "FINETUNE_OPERATOR_"
_RESOLVED = frozenset({"tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"})
Port = Annotated[int, Field(ge=0, le=65535)]


class ConfigError(Exception):
    """The configuration cannot be used; the message names the field, the value and the remedy."""


class OperatorConfig(TenantSettings):
    """All settings of the operator, with their defaults."""

    policies: list[NamespacePolicy] = Field(default_factory=list)
    """Settings above that differ by namespace; of several policies that name one, the later
    wins."""

    # ---- where and how to watch --------------------------------------------------------------
    namespaces: list[str] = Field(default_factory=list)
    """Namespaces to serve. Empty: the whole cluster, which needs a ClusterRole."""
    kueue: Literal["auto", "on", "off"] = "auto"
    """Use Kueue for jobs with a `queueName`. `auto`: if its API is there when the operator
    starts."""
    num_workers: Annotated[int, Field(ge=1, le=256)] = 16
    """Jobs reconciled at the same time."""
    requests_per_second: Annotated[float, Field(gt=0)] = 200.0
    """Sustained rate of API requests, in requests per second."""
    request_burst: Annotated[int, Field(ge=1)] = 400
    """API requests that may be made at once before that rate holds."""
    resync_seconds: Annotated[float, Field(gt=0)] = 600.0
    """How often the cache of FineTuneJobs is compared with the server to drop vanished ones."""
    image_pull_deadline_seconds: Annotated[int, Field(ge=0)] = 600
    """How long a pod may fail without a break to get its image, or to mount its volumes, before the
    job fails. Such a pod holds its GPUs. One of a stage that has run before lets them go instead,
    and tries again: see `outageDeadlineSeconds`."""
    outage_deadline_seconds: Annotated[int, Field(ge=0)] = 86400
    """How long a stage that has run before may fail to start again, or to reach its storage, before
    the job fails. It holds no GPUs meanwhile: it tries again after one minute, then two, four, up
    to an hour. Time in which the job is suspended, or waits for quota, does not count."""
    max_fruitless_evictions: Annotated[int, Field(ge=1, le=1000)] = 10
    """How often in a row a kubelet may evict a stage, or somebody delete its Job, before a new step
    is made: one more fails the job. Such ends cost no retry. Of preemptions, drains and lost nodes,
    which are decided elsewhere, ten times as many."""

    placement_deadline_seconds: Annotated[int, Field(ge=0)] = 600
    """How long a pod of a training may find no node while the others hold their GPUs, before all
    are stopped and try again five minutes later. 0: for ever. Queued jobs are left to Kueue."""
    lost_pod_seconds: Annotated[int, Field(ge=1)] = 120
    """How long after its grace period a pod that is being deleted may fail to end, before its node
    is taken not to answer any more and the pod is declared failed: only then is it replaced."""

    server_moves: Annotated[int, Field(ge=1, le=1000)] = 1
    """Servers of endpoints that a change of this configuration replaces at once; in one namespace
    it is always one. Each needs the pods of a further server meanwhile. One that does not end
    within 15 minutes holds up only its own namespace."""
    serving_report_peers: list[dict[str, Any]] = Field(default_factory=list)
    """Who may read reports and metrics of the pods that serve endpoints, the operator included:
    peers as a NetworkPolicy has them. Empty: no NetworkPolicy is made for these pods."""

    # ---- leader election ---------------------------------------------------------------------
    leader_election: bool = True
    """Only one replica reconciles; the others keep warm caches and serve progress pushes."""
    leader_election_namespace: str = ""
    """Namespace of the Lease. Empty: the operator's own."""
    leader_election_name: str = "finetune-operator"
    """Name of the Lease."""
    lease_duration_seconds: Annotated[float, Field(gt=0)] = 15.0
    """How long a standby waits after the last renewal it saw."""
    renew_deadline_seconds: Annotated[float, Field(gt=0)] = 10.0
    """How long the leader tries to renew before it stops all work. Less than the lease duration."""
    retry_period_seconds: Annotated[float, Field(gt=0)] = 2.0
    """Time between two tries."""

    # ---- progress, probes, metrics -----------------------------------------------------------
    progress_url: str = ""
    """URL at which trainer pods reach the progress endpoint, for example
    `http://finetune-operator-progress.finetune-system.svc:8090`. Empty: pods do not push, and
    `status.progress` stays empty."""
    progress_ca_config_map: str = ""
    """A ConfigMap of this name, in each job's namespace, whose key `ca.crt` signs `progressUrl`.
    Empty: the pod's own certificate store."""
    progress_port: Port = 8090
    """Port of the progress endpoint; 0 takes a free one."""
    progress_tls_certificate: str = ""
    """PEM file; with `progressTlsKey` the progress endpoint speaks HTTPS."""
    progress_tls_key: str = ""
    """PEM file."""
    progress_interval_seconds: Annotated[float, Field(ge=1)] = 15.0
    """Shortest time between two progress writes of one job."""
    probe_port: Port = 8081
    """Port of `/healthz` and `/readyz`; 0 takes a free one."""
    metrics_port: Port = 8080
    """Port of `/metrics`; 0 takes a free one."""
    bind_address: str = "0.0.0.0"  # noqa: S104 - a pod is reached on its own address
    """Address the three ports are bound to."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least important messages that are logged."""

    def for_namespace(self, namespace: str) -> OperatorConfig:
        """Return the settings that hold for the jobs of a namespace."""
        changes: dict[str, Any] = {}
        for policy in self.policies:
            if policy.covers(namespace):
                changes |= policy.changes()
        patterns = changes.get("allowed_buckets", self.allowed_buckets)
        own = [pattern.replace("{namespace}", namespace) for pattern in patterns]
        if own != self.allowed_buckets:
            changes["allowed_buckets"] = own
        return self.model_copy(update=changes) if changes else self

    @classmethod
    def load(
        cls,
        path: Path | None = None,
        *,
        environment: Mapping[str, str] = os.environ,
        overrides: Mapping[str, Any] | None = None,
    ) -> OperatorConfig:
        """Merge file, environment and flags.

        Args:
            path: YAML or JSON file with wire names, or None.
            environment: Where ``FINETUNE_OPERATOR_<FIELD>`` is looked up; values as in
                ``parse_setting``.
            overrides: Flags by Python name; None values are left out.

        Raises:
            ConfigError: The file is unreadable or a value is not allowed.
        """
        values: dict[str, Any] = {}
        if path is not None:
            values.update(_read(path))
        for name in cls.model_fields:
            variable = ENVIRONMENT_PREFIX + name.upper()
            text = environment.get(variable)
            if text is not None:
                values.pop(name, None)
                values[to_camel(name)] = parse_setting(name, text, origin=variable)
        for name, value in (overrides or {}).items():
            if value is not None:
                values.pop(name, None)
                values[to_camel(name)] = value
        try:
            config = cls.model_validate(values)
        except ValidationError as error:
            lines = [
                f"{'.'.join(str(part) for part in item['loc'])}: "
                f"{item['msg'].removeprefix('Value error, ')} (got {item['input']!r})"
                for item in error.errors()
            ]
            origin = f" of {path}" if path else ""
            raise ConfigError(f"operator configuration{origin}: " + "; ".join(lines)) from error
        if config.renew_deadline_seconds >= config.lease_duration_seconds:
            raise ConfigError(
                f"renewDeadlineSeconds {config.renew_deadline_seconds:g} must be less than"
                f" leaseDurationSeconds {config.lease_duration_seconds:g}: otherwise two"
                " replicas could both believe that they lead"
            )
        return config


class TextLoader(yaml.SafeLoader):
    """YAML whose scalars stay text, null apart: the type of the field says what they mean.

    To YAML, ``kueue: off`` and ``defaultCpu: 2`` are a boolean and a number.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - declared by the base
        first: [(tag, pattern) for tag, pattern in resolvers if tag in _RESOLVED]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def parse_setting(name: str, text: str, *, origin: str) -> Any:
    """Read one value as it is given on the command line or in the environment.

    Args:
        name: Python name of the field.
        text: YAML, so that lists and maps can be given; a field that holds text takes any.
        origin: Where it was given, for the message.

    Raises:
        ConfigError: Not YAML.
    """
    kind = OperatorConfig.model_fields[name].annotation
    is_text = kind is str or get_origin(kind) is Literal
    try:
        value = yaml.load(text, Loader=TextLoader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        if is_text:
            return text
        raise ConfigError(f"{origin}: {text!r} is not YAML: {error}") from error
    return text if is_text and not isinstance(value, str) else value


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(), Loader=TextLoader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise ConfigError(f"operator configuration {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"operator configuration {path} is not YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(
            f"operator configuration {path} must be a mapping of settings, not a"
            f" {type(content).__name__}"
        )
    return content
