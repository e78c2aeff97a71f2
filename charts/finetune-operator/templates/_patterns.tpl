{{/*
Patterns of allow-lists as regular expressions, quoted for CEL; finetune_operator/allowlists.py says what they mean, and
a test holds both to the same cases. A setting that is not given (values of an older chart) is left to the operator.
*/}}

{{/* Of names: service accounts, variables, classes, schedulers. */}}
{{- define "finetune-operator.names" -}}
{{- $all := list -}}
{{- range . -}}
{{- $all = append $all (ternary "(?s:.*)" (include "finetune-operator.glob" (list . "[^/]*")) (eq . "*")) -}}
{{- end -}}
{{- include "finetune-operator.oneOf" (list (kindIs "invalid" .) $all) -}}
{{- end -}}

{{/* Of "key=value": node labels, labels and annotations of pods. */}}
{{- define "finetune-operator.pairs" -}}
{{- $all := list -}}
{{- range . -}}
{{- if eq . "*" -}}
{{- $all = append $all "(?s:.*)" -}}
{{- else -}}
{{- $key := include "finetune-operator.glob" (list (regexReplaceAll "=.*$" . "") "[^/=]*") -}}
{{- $value := ternary (include "finetune-operator.glob" (list (regexReplaceAll "^[^=]*=?" . "") ".*")) "(?s:.*)" (contains "=" .) -}}
{{- $all = append $all (printf "%s=%s" $key $value) -}}
{{- end -}}
{{- end -}}
{{- include "finetune-operator.oneOf" (list (kindIs "invalid" .) $all) -}}
{{- end -}}

{{/* Of "key:effect" and "key=value:effect": tolerations; one without key is the empty text. */}}
{{- define "finetune-operator.taints" -}}
{{- $all := list -}}
{{- range . -}}
{{- if eq . "*" -}}
{{- $all = append $all "(?s:.*)" -}}
{{- else -}}
{{- $effect := ternary (regexReplaceAll "^.*:" . "") "[A-Za-z]*" (contains ":" .) -}}
{{- $pair := regexReplaceAll ":.*$" . "" -}}
{{- $key := regexReplaceAll "=.*$" $pair "" | default "*" -}}
{{- $key = ternary "[^/=:]+" (include "finetune-operator.glob" (list $key "[^/=:]*")) (eq $key "*") -}}
{{- $value := ternary (printf "=%s" (include "finetune-operator.glob" (list (regexReplaceAll "^[^=]*=?" $pair "") ".*"))) "(=.*)?" (contains "=" $pair) -}}
{{- $all = append $all (printf "%s%s:%s" $key $value $effect) -}}
{{- end -}}
{{- end -}}
{{- include "finetune-operator.oneOf" (list (kindIs "invalid" .) $all) -}}
{{- end -}}

{{/* Of images: the registry apart from the path. */}}
{{- define "finetune-operator.images" -}}
{{- $all := list -}}
{{- range . -}}
{{- if eq . "*" -}}
{{- $all = append $all "(?s:.*)" -}}
{{- else if contains "/" . -}}
{{- $registry := include "finetune-operator.glob" (list (regexReplaceAll "/.*$" . "") "[^/@:?#]+") -}}
{{- $path := regexReplaceAll "^[^/]*/" . "" -}}
{{- $rest := regexMatch "(^|/)[*][*]?$" $path -}}
{{- $path = include "finetune-operator.glob" (list (regexReplaceAll "[*][*]?$" $path (ternary "" "*" $rest)) "[^/]*") -}}
{{- $all = append $all (printf "%s/%s%s" $registry $path (ternary ".*" "" $rest)) -}}
{{- else -}}
{{- $all = append $all (include "finetune-operator.glob" (list . "[^/]*")) -}}
{{- end -}}
{{- end -}}
{{- include "finetune-operator.oneOf" (list (kindIs "invalid" .) $all) -}}
{{- end -}}

{{/* A pattern as an expression; expects (list pattern wildcard). */}}
{{- define "finetune-operator.glob" -}}
{{- $wildcard := index . 1 -}}
{{- regexQuoteMeta (index . 0) | replace "\\*" $wildcard -}}
{{- end -}}

{{/* Expressions as one, quoted for CEL; expects (list is-unset expressions). */}}
{{- define "finetune-operator.oneOf" -}}
{{- if index . 0 -}}
"(?s:.*)"
{{- else -}}
{{- printf "^(%s)$" (join "|" (index . 1)) | toJson -}}
{{- end -}}
{{- end -}}

{{/* Default tolerations as texts like those that "finetune-operator.taints" matches. */}}
{{- define "finetune-operator.taintTexts" -}}
{{- $all := list -}}
{{- range . -}}
{{- $value := ternary "" (printf "=%s" (default "" .value)) (eq (default "Equal" .operator) "Exists") -}}
{{- $all = append $all (ternary (printf "%s%s:%s" (default "" .key) $value (default "" .effect)) "" (not (empty .key))) -}}
{{- end -}}
{{- toJson $all -}}
{{- end -}}

{{/* Mount roots as a list; nothing is held back where the setting is not given. */}}
{{- define "finetune-operator.roots" -}}
{{- ternary "[\"\"]" (toJson .) (kindIs "invalid" .) -}}
{{- end -}}

{{/* A switch that is on where it is not given. */}}
{{- define "finetune-operator.switch" -}}
{{- ternary "true" (toJson .) (kindIs "invalid" .) -}}
{{- end -}}

{{/* Node labels that are always allowed, as texts. */}}
{{- define "finetune-operator.labelTexts" -}}
{{- $all := list -}}
{{- range $key, $value := . -}}
{{- $all = append $all (printf "%s=%s" $key $value) -}}
{{- end -}}
{{- toJson $all -}}
{{- end -}}
