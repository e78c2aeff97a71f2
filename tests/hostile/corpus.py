"""What tenants try: names and paths that break out where nobody stops them.

Names of variables are gathered from what the programs in the images document: glibc (ld.so(8),
environ(7)), CPython, pip, CUDA, NCCL and RCCL (plug-ins for net, tuner, profiler, environment),
UCX, libfabric, Open MPI, Triton, Inductor, torch, numba, vLLM, huggingface_hub, botocore, MLflow,
wandb, OpenSSL, curl, git.
"""

from __future__ import annotations

import re

LOADS_CODE = (
    *("LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT", "LD_DEBUG_OUTPUT", "LD_PROFILE_OUTPUT"),
    *("GCONV_PATH", "GETCONF_DIR", "LOCPATH", "NLSPATH", "MALLOC_CHECK_", "GLIBC_TUNABLES"),
    *("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONUSERBASE", "PYTHONPLATLIBDIR"),
    *("PYTHONINSPECT", "PYTHONBREAKPOINT", "PYTHONPYCACHEPREFIX", "PYTHONWARNINGS"),
    *("PYTHONEXECUTABLE", "PYTHON_PRESITE", "PIP_INDEX_URL", "PIP_CONFIG_FILE", "VIRTUAL_ENV"),
    *("PATH", "ENV", "BASH_ENV", "SHELL", "PROMPT_COMMAND", "IFS", "PERL5LIB", "PERL5OPT"),
    *("NODE_OPTIONS", "RUBYOPT", "JAVA_TOOL_OPTIONS", "EDITOR", "PAGER", "BROWSER"),
    *(
        "CC",
        "CXX",
        "NVCC",
        "CUDAHOSTCXX",
        "CUDAHOSTLD",
        "CFLAGS",
        "CXXFLAGS",
        "LDFLAGS",
        "LDSHARED",
    ),
    *("CUDA_HOME", "CUDA_PATH", "CUDNN_HOME", "ROCM_HOME", "ROCM_PATH", "HIP_PATH"),
    *("CUDA_INJECTION64_PATH", "CUDA_INJECTION32_PATH", "CUDA_CACHE_PATH", "NVTX_INJECTION64_PATH"),
    *("CUDNN_LOGDEST_DBG", "CUPTI_INJECTION64_PATH", "NSYS_NVTX_PROFILER_REGISTER_ONLY"),
    *("NCCL_NET_PLUGIN", "NCCL_TUNER_PLUGIN", "NCCL_PROFILER_PLUGIN", "NCCL_ENV_PLUGIN"),
    *("NCCL_GIN_PLUGIN", "NCCL_CONF_FILE", "NCCL_TOPO_FILE", "NCCL_GRAPH_FILE", "RCCL_MSCCL_PATH"),
    *("MSCCL_ALGO_DIR", "RCCL_TUNER_CONFIG_PATH", "NCCL_TUNER_CONFIG_FILE", "CUDA_MODULE_PATH"),
    *("UCX_MODULE_DIR", "UCX_MODULES", "UCX_CONFIG_DIR", "UCC_CONFIG_FILE", "UCC_COMPONENT_PATH"),
    *("FI_PROVIDER_PATH", "FI_HOOK", "OMPI_MCA_mca_base_component_path"),
    *(
        "OMPI_MCA_component_path",
        "PMIX_MCA_mca_base_component_path",
        "OPAL_PREFIX",
        "RDMAV_DRIVERS",
    ),
    *("IBV_DRIVERS", "IBV_CONFIG_DIR", "LIBIBVERBS_DRIVERS", "SHARP_COLL_LIB"),
    *("TRITON_PTXAS_PATH", "TRITON_CACHE_DIR", "TRITON_HOME", "TRITON_LIBCUDA_PATH"),
    *("TRITON_CUOBJDUMP_PATH", "TRITON_NVDISASM_PATH", "TRITON_OVERRIDE_DIR", "TRITON_DUMP_DIR"),
    *("TRITON_PLUGIN_PATHS", "TRITON_PASS_PLUGIN_PATH", "TRITON_PTXAS_BLACKWELL_PATH"),
    *("TORCHINDUCTOR_CACHE_DIR", "TORCHINDUCTOR_CUTLASS_DIR", "TORCHINDUCTOR_CPP_PREFIX"),
    *("TORCH_EXTENSIONS_DIR", "TORCH_COMPILE_DEBUG_DIR", "TORCH_HOME", "TORCH_LOGS_OUT"),
    *("TORCH_DEVICE_BACKEND_AUTOLOAD", "TORCH_LIBRARY_PATH", "PYTORCH_KERNEL_CACHE_PATH"),
    *("NUMBA_CACHE_DIR", "NUMBA_CUDA_DRIVER", "NUMBA_CUDA_NVRTC_EXTRA_SEARCH_PATHS"),
    *("NUMBAPRO_CUDALIB", "NUMBAPRO_LIBDEVICE", "CUPY_CACHE_DIR", "THEANORC", "KERAS_HOME"),
    *("DS_BUILD_OPS", "DS_ACCELERATOR", "DEEPSPEED_CONFIG", "ACCELERATE_CONFIG_FILE"),
    *("VLLM_PLUGINS", "VLLM_NCCL_SO_PATH", "VLLM_CONFIG_ROOT", "VLLM_CACHE_ROOT"),
    *(
        "VLLM_ALLOW_INSECURE_SERIALIZATION",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
        "VLLM_LOGGING_CONFIG_PATH",
    ),
    *("VLLM_XLA_CACHE_PATH", "VLLM_RPC_BASE_PATH", "VLLM_USE_MODELSCOPE", "VLLM_SERVER_DEV_MODE"),
    *("MKL_RT_PATH", "MKL_THREADING_LAYER_PATH", "OMP_TOOL_LIBRARIES", "KMP_AFFINITY_FILE"),
    *("ONEDNN_JIT_DUMP", "OPENBLAS_LIB_PATH", "BLIS_LIB_PATH", "TBBMALLOC_PATH"),
    *("GIT_SSH_COMMAND", "GIT_EXEC_PATH", "GIT_CONFIG_GLOBAL", "GIT_PROXY_COMMAND", "GIT_ASKPASS"),
    *("ARROW_DEFAULT_FILESYSTEM", "ARROW_LIBHDFS_DIR", "HADOOP_HOME", "JAVA_HOME", "ORT_LIB_PATH"),
    *("OPENSSL_CONF", "OPENSSL_MODULES", "OPENSSL_ENGINES", "KRB5_CONFIG", "HOSTALIASES"),
    *(
        "RESOLV_HOST_CONF",
        "RES_OPTIONS",
        "LOCALDOMAIN",
        "TMPDIR",
        "XDG_CACHE_HOME",
        "XDG_CONFIG_HOME",
    ),
    *("XDG_DATA_DIRS", "JUPYTER_CONFIG_DIR", "MPLCONFIGDIR", "PYDEVD_LOAD_VALUES_ASYNC"),
    *("COVERAGE_PROCESS_START", "DEBUGPY_EXTRA", "SETUPTOOLS_USE_DISTUTILS", "SITE_CUSTOMIZE"),
)
"""Variables that name code, or a place that code is loaded from."""

REDIRECTS = (
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"),
    *("AWS_CA_BUNDLE", "AWS_PROFILE", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE"),
    *("AWS_EC2_METADATA_SERVICE_ENDPOINT", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_DATA_PATH"),
    *("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN"),
    *("BOTO_CONFIG", "BOTO_PATH", "HF_ENDPOINT", "HF_HOME", "HF_TOKEN", "HF_TOKEN_PATH"),
    *("HF_HUB_CACHE", "HF_INFERENCE_ENDPOINT", "HUGGINGFACE_HUB_CACHE", "HUGGING_FACE_HUB_TOKEN"),
    *("HF_MODULES_CACHE", "HF_DATASETS_TRUST_REMOTE_CODE", "TRANSFORMERS_CACHE"),
    *("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"),
    *("NO_PROXY", "no_proxy", "FTP_PROXY", "Https_Proxy", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *(
        "CURL_HOME",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "SSLKEYLOGFILE",
        "NETRC",
        "MLFLOW_TRACKING_URI",
    ),
    *("MLFLOW_TRACKING_INSECURE_TLS", "MLFLOW_S3_ENDPOINT_URL", "WANDB_BASE_URL", "WANDB_DIR"),
    *(
        "OPENAI_BASE_URL",
        "OPENAI_API_BASE",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "AZURE_AUTHORITY_HOST",
    ),
    *("GOOGLE_API_USE_MTLS_ENDPOINT", "GCE_METADATA_HOST", "AZURE_FEDERATED_TOKEN_FILE"),
    *("KUBERNETES_SERVICE_HOST", "KUBECONFIG", "COMET_URL_OVERRIDE", "MASTER_ADDR", "MASTER_PORT"),
    *(
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "NCCL_COMM_ID",
        "TORCHELASTIC_RUN_ID",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    ),
)
"""Variables that decide where credentials and rows are sent, whom a pod believes or meets."""

WRITES_FILES = (
    *("NCCL_DEBUG_FILE", "NCCL_TOPO_DUMP_FILE", "NCCL_GRAPH_DUMP_FILE", "NCCL_RAS_ADDR"),
    *(
        "TORCH_NCCL_DEBUG_INFO_TEMP_FILE",
        "TORCH_NCCL_DEBUG_INFO_PIPE_FILE",
        "TORCH_FR_DUMP_TEMP_FILE",
    ),
    *("TORCH_TRACE", "UCX_LOG_FILE", "UCX_STATS_DEST", "FI_LOG_FILE", "CUDA_LOG_FILE"),
    *("CUBLAS_LOGDEST_DBG", "CUDA_COREDUMP_FILE", "CUDA_COREDUMP_PIPE", "KINETO_CONFIG"),
)
"""Variables that have a library write where the tenant says: over a stage's files or last words."""

TAKES_DEVICES = (
    *("NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "NVIDIA_REQUIRE_CUDA"),
    *("NVIDIA_MIG_CONFIG_DEVICES", "NVIDIA_MIG_MONITOR_DEVICES", "NVIDIA_IMEX_CHANNELS"),
    *("NVIDIA_DISABLE_REQUIRE", "AMD_VISIBLE_DEVICES", "HABANA_VISIBLE_DEVICES"),
    *("ASCEND_VISIBLE_DEVICES", "DOCKER_RESOURCE_NVIDIA_VISIBLE_DEVICES", "NVIDIA_GDS"),
)
"""Variables by which a container runtime hands out devices that the pod did not ask for."""

OPERATORS_OWN = (
    *("FINETUNE_WORK_DIR", "FINETUNE_CACHE_DIR", "FINETUNE_CREDENTIALS_DIR", "FINETUNE_ALLOW_CPU"),
    *(
        "FINETUNE_ALLOWED_LICENCES",
        "FINETUNE_IMAGE",
        "FINETUNE_TERMINATION_LOG",
        "FINETUNE_NUM_GPUS",
    ),
    *("FINETUNE_CACHE_IS_SHARED", "FINETUNE_STORAGE_PATIENCE_SECONDS", "FINETUNE_RENDEZVOUS_HOST"),
    *("KUBEFLOW_TRAINER_SERVER_URL", "KUBEFLOW_TRAINER_SERVER_TOKEN", "JOB_COMPLETION_INDEX"),
    *("KUBEFLOW_TRAINER_SERVER_CA_CERT", "HOME", "OMP_NUM_THREADS", "PYTHONHASHSEED"),
)
"""Variables by which the operator tells a stage what holds."""

HARMLESS_VARIABLES = (
    *("NCCL_DEBUG", "NCCL_DEBUG_SUBSYS", "NCCL_IB_DISABLE", "NCCL_IB_HCA", "NCCL_P2P_DISABLE"),
    *("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "PYTORCH_CUDA_ALLOC_CONF", "TZ", "LANG"),
    *("TOKENIZERS_PARALLELISM", "CUDA_LAUNCH_BLOCKING", "AWS_REGION", "APP_TEAM", "APP_MODE"),
)
"""Variables that people tune and that no policy needs to open."""

_FAMILIES = re.compile(
    "|".join(
        (
            "LD_.*|PYTHON(?!UNBUFFERED$|FAULTHANDLER$|HASHSEED$).*|PIP_.*|GIT_.*|TRITON_.*",
            "TORCHINDUCTOR_.*|TORCH_EXTENSIONS.*|NUMBA.*|VLLM_.*|OMPI_MCA_.*|PMIX_.*|.*_PLUGIN",
            ".*_PLUGIN_PATHS?|.*_MODULE_(DIR|PATH)|.*_PROXY|.*_CA_BUNDLE|OPENSSL_.*|SSL.*|BOTO.*",
            "HUGGING_?FACE.*|HF_(?!HUB_DOWNLOAD_TIMEOUT$|HUB_ETAG_TIMEOUT$).*|MLFLOW_.*|WANDB_.*",
            "AWS_(?!REGION$|DEFAULT_REGION$|MAX_ATTEMPTS$|RETRY_MODE$).*|KUBERNETES_.*",
            "FINETUNE_.*|KUBEFLOW_TRAINER_.*|(NCCL|UCX|FI|TORCH|CUDA)_.*(FILE|PATH|DIR|PIPE)",
        )
    )
)
"""Families of such names: what a new version of a library adds is most often one of them."""

_NAMES = frozenset(
    name.upper()
    for name in (*LOADS_CODE, *REDIRECTS, *WRITES_FILES, *TAKES_DEVICES, *OPERATORS_OWN)
)


def is_dangerous(variable: str) -> bool:
    """Return whether a variable is one that no tenant may set, under any policy."""
    return variable.upper() in _NAMES or bool(_FAMILIES.fullmatch(variable.upper()))


HIDEABLE_PATHS = (
    *("/", "/etc", "/etc/finetune", "/etc/finetune/job", "/etc/finetune/job/job.json", "/etc/ssl"),
    *(
        "/etc/passwd",
        "/etc/ld.so.preload",
        "/etc/hosts",
        "/etc/resolv.conf",
        "/opt",
        "/opt/finetune",
    ),
    *("/opt/finetune/lib", "/opt/finetune/lib/finetune_trainer", "/opt/venv", "/opt/venv/bin"),
    *("/opt/venv/lib/python3.12/site-packages", "/usr", "/usr/bin", "/usr/lib", "/usr/local"),
    *("/usr/local/cuda", "/usr/local/lib", "/bin", "/sbin", "/lib", "/lib64", "/root", "/home"),
    *(
        "/work",
        "/work/checkpoints",
        "/cache",
        "/cache/hf",
        "/tmp",
        "/tmp/.cache",
        "/dev",
        "/dev/shm",
    ),
    *("/dev/termination-log", "/proc", "/proc/self", "/sys", "/sys/fs/cgroup", "/var", "/var/run"),
    *("/var/run/secrets", "/var/run/secrets/finetune.dev", "/var/run/secrets/finetune.dev/token"),
    *("/var/run/secrets/finetune.dev/credentials", "/var/run/secrets/kubernetes.io/serviceaccount"),
    *("/var/run/secrets/finetune.dev/credentials/bucket", "/var/lib", "/var/lib/finetune"),
    *("/var/lib/finetune/claims", "/var/lib/finetune/claims/models", "/run", "/run/secrets"),
    *("/run/finetune", "/run/finetune/engine", "/run/finetune/garak", "/srv", "/boot", "/metrics"),
    *("/vllm-workspace", "/app", "/workspace", "/extra", "/datasets", "/mntx", "/data2"),
)
"""Places that the image, the operator or the node fills, their parents and what lies below."""

DANGEROUS_ANNOTATIONS = {
    "container.apparmor.security.beta.kubernetes.io/trainer": "unconfined",
    "seccomp.security.alpha.kubernetes.io/pod": "unconfined",
    "container.seccomp.security.alpha.kubernetes.io/trainer": "unconfined",
    "iam.amazonaws.com/role": "arn:aws:iam::1:role/admin",
    "iam.amazonaws.com/external-id": "x",
    "eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/admin",
    "eks.amazonaws.com/skip-containers": "trainer",
    "iam.gke.io/gcp-service-account": "root@project.iam.gserviceaccount.com",
    "azure.workload.identity/inject-proxy-sidecar": "true",
    "sidecar.istio.io/inject": "true",
    "sidecar.istio.io/userVolume": '[{"name":"h","hostPath":{"path":"/"}}]',
    "sidecar.istio.io/userVolumeMount": '[{"name":"h","mountPath":"/host"}]',
    "sidecar.istio.io/proxyImage": "evil.example/proxy:1",
    "inject.istio.io/templates": "grpc-agent",
    "traffic.sidecar.istio.io/excludeOutboundPorts": "443",
    "proxy.istio.io/config": "{}",
    "linkerd.io/inject": "enabled",
    "config.linkerd.io/proxy-image": "evil.example/proxy",
    "vault.hashicorp.com/agent-inject": "true",
    "vault.hashicorp.com/role": "admin",
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
    "scheduler.alpha.kubernetes.io/critical-pod": "",
    "kubernetes.io/ingress-bandwidth": "100G",
    "kubernetes.io/limit-ranger": "x",
    "k8s.v1.cni.cncf.io/networks": "kube-system/host-net",
    "cni.projectcalico.org/ipAddrs": '["10.0.0.1"]',
    "kueue.x-k8s.io/workload": "somebody-elses",
    "kueue.x-k8s.io/job-min-parallelism": "0",
    "kueue.x-k8s.io/admission-gated-by": "x",
    "finetune.dev/paused": "true",
    "io.kubernetes.cri-o.userns-mode": "auto:size=65536",
    "io.kubernetes.cri-o.Devices": "/dev/mem",
    "cpu-load-balancing.crio.io": "disable",
    "io.katacontainers.config.hypervisor.path": "/bin/sh",
    "cdi.k8s.io/gpu": "vendor.com/device=all",
    "nvidia.com/mig.config": "all-disabled",
    "admission.datadoghq.com/java-lib.custom-image": "evil.example/lib",
    "instrumentation.opentelemetry.io/inject-python": "true",
    "instrumentation.opentelemetry.io/otel-python-auto-instrumentation-image": "evil.example/x",
    "dapr.io/enabled": "true",
    "pod-security.kubernetes.io/enforce": "privileged",
    "batch.kubernetes.io/job-completion-index": "0",
}
"""Annotations by which some controller, webhook or runtime widens what a pod may do."""

DANGEROUS_LABELS = {
    "app": "frontend",
    "app.kubernetes.io/name": "frontend",
    "app.kubernetes.io/instance": "frontend",
    "finetune.dev/job": "another",
    "finetune.dev/stage": "publish",
    "finetune.dev/sweep": "another",
    "kueue.x-k8s.io/queue-name": "another",
    "kueue.x-k8s.io/priority-class": "highest",
    "kueue.x-k8s.io/managed": "false",
    "batch.kubernetes.io/job-name": "another-train",
    "batch.kubernetes.io/controller-uid": "0b6c0c5e-7f5c-4d0e-9a51-3f2f5a0d7a11",
    "batch.kubernetes.io/job-completion-index": "7",
    "job-name": "another-train",
    "controller-uid": "0b6c0c5e-7f5c-4d0e-9a51-3f2f5a0d7a11",
    "app.kubernetes.io/managed-by": "Helm",
    "aadpodidbinding": "administrators",
    "azure.workload.identity/use": "true",
    "sidecar.istio.io/inject": "true",
    "istio.io/dataplane-mode": "none",
    "linkerd.io/inject": "enabled",
    "admission.datadoghq.com/enabled": "true",
    "jobset.sigs.k8s.io/jobset-name": "another",
    "batch.volcano.sh/job-name": "another",
    "pod-template-hash": "5d4f8c7b9",
    "statefulset.kubernetes.io/pod-name": "database-0",
    "kubernetes.io/service-name": "database",
}
"""Labels that belong to a controller, or that an identity or a sidecar hangs on."""

TEMPLATE_ESCAPES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ prompt.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ joiner.__init__.__globals__['os'].environ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "{{ ''|attr('__class__') }}",
    "{{ prompt|attr('\\x5f\\x5fclass\\x5f\\x5f') }}",
    "{{ '%s'.format.__self__.__class__ }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(prompt) }}",
    "{{ prompt|map(attribute='__class__')|list }}",
    "{{ [prompt]|map(attribute='__class__.__mro__')|list }}",
    "{{ self._TemplateReference__context }}",
    "{{ self.__init__.__globals__ }}",
    "{% set x = [] %}{{ x.append(1) }}",
    "{{ config }}{{ request.application.__globals__ }}",
    "{% include '/etc/passwd' %}",
    "{% extends '/var/run/secrets/finetune.dev/token/token' %}",
    "{% import 'os' as os %}{{ os.environ }}",
    "{% from '/etc/passwd' import x %}",
)
TEMPLATE_BOMBS = (
    "{{ 9**9**9**9 }}",
    "{{ 'a' * 10**12 }}",
    "{% for i in range(10**9) %}{% for j in range(10**9) %}{{ i }}{% endfor %}{% endfor %}",
    "{{ " + "(" * 4000 + "1" + ")" * 4000 + " }}",
    "{% if 1 %}" * 900 + "{% endif %}" * 900,
    "{{ " + "-" * 6000 + "1 }}",
    "{{ x" + "[0]" * 4000 + " }}",
    "{{ '" + "a" * 15000 + "'|replace('a', 'aaaaaaaaaaaa')|replace('a', 'aaaaaaaaaaaa') }}",
)
