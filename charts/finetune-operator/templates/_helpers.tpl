{{/* Name of the chart's objects, at most 52 characters: suffixes are added to it. */}}
{{- define "finetune-operator.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Labels a selector uses: they never change over the life of a release. */}}
{{- define "finetune-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "finetune-operator.labels" -}}
{{ include "finetune-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: finetune-operator
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "finetune-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "finetune-operator.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name is needed when serviceAccount.create is off" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* The subject of every binding. */}}
{{- define "finetune-operator.subject" -}}
- kind: ServiceAccount
  name: {{ include "finetune-operator.serviceAccountName" . }}
  namespace: {{ .Release.Namespace }}
{{- end -}}

{{/* Image reference; expects (dict "image" .Values.image "name" "image" "root" $). */}}
{{- define "finetune-operator.image" -}}
{{- if not .image.repository -}}
{{- fail (printf "%s.repository is empty: no image is published. Build and push both images (docs/how-to/install.md), then name them with --set image.repository=REGISTRY/finetune-operator --set trainerImage.repository=REGISTRY/finetune-trainer" .name) -}}
{{- end -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (default .root.Chart.AppVersion .image.tag) -}}
{{- end -}}
{{- end -}}

{{/* What Prometheus calls the scrapes of pods that serve endpoints: namespace and name of the PodMonitor. */}}
{{- define "finetune-operator.servingJob" -}}
{{- printf "%s/%s-serving" .Release.Namespace (include "finetune-operator.fullname" .) -}}
{{- end -}}

{{/* Name of the Lease the replicas elect their leader with. */}}
{{- define "finetune-operator.leaseName" -}}
{{- include "finetune-operator.fullname" . -}}
{{- end -}}

{{/*
A setting of .Values.config as CEL, for the namespace of the object in an admission policy: that of the last policy
which names it, else the cluster's. Expects (dict "root" $ "name" "allowedImages"); "as" names the template that writes
a value as CEL, by default "finetune-operator.literal".
*/}}
{{- define "finetune-operator.setting" -}}
{{- $as := default "finetune-operator.literal" .as -}}
{{- $name := .name -}}
(
{{- range $policy := reverse (default list .root.Values.config.policies) -}}
{{- if hasKey $policy $name -}}
namespaceObject.metadata.name.matches({{ include "finetune-operator.namespaceRegex" $policy.namespaces }}) ? {{ include $as (index $policy $name) }} : {{ end -}}
{{- end -}}
{{ include $as (index .root.Values.config $name) }})
{{- end -}}

{{/* A value as a CEL literal. */}}
{{- define "finetune-operator.literal" -}}
{{- toJson . -}}
{{- end -}}

{{/* The same of a text, which is empty where it is not given. */}}
{{- define "finetune-operator.text" -}}
{{- default "" . | toJson -}}
{{- end -}}

{{/* Patterns of namespaces as one regular expression, quoted for CEL. */}}
{{- define "finetune-operator.namespaceRegex" -}}
{{- $all := list -}}
{{- range . -}}
{{- $all = append $all (. | replace "." "[.]" | replace "*" ".*" | replace "?" "." | replace "[!" "[^") -}}
{{- end -}}
{{- printf "^(%s)$" (join "|" $all) | toJson -}}
{{- end -}}
