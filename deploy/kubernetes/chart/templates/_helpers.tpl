{{- define "lamella.labels" -}}
app.kubernetes.io/name: lamella
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "lamella.selector" -}}
app.kubernetes.io/name: lamella
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "lamella.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- /* One line of lamella.conf, whose strings are quoted as a shell's: a value with ' has no place there. */ -}}
{{- define "lamella.setting" -}}
{{- $value := .value -}}
{{- if kindIs "bool" $value }}{{ $value = ternary "yes" "no" $value }}{{ end -}}
{{- if kindIs "float64" $value }}{{ $value = int64 $value }}{{ end -}}
{{- if contains "'" (toString $value) }}{{ fail (printf "%s: a value must not have a '" .key) }}{{ end -}}
{{ .key }}='{{ $value }}'
{{- end }}

{{- define "lamella.nodeEnv" -}}
- name: NODE_NAME
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
- name: HOST_ADDRESS
  valueFrom:
    fieldRef:
      fieldPath: status.hostIP
{{- with .Values.ports.fetcher }}
- name: FETCHER_PORT
  value: {{ . | quote }}
{{- end }}
{{- with .Values.ports.snapshotter }}
- name: SNAPSHOTTER_PORT
  value: {{ . | quote }}
{{- end }}
{{- end }}

{{- /* The image is built for these (Containerfile). */ -}}
{{- define "lamella.affinity" -}}
nodeAffinity:
  requiredDuringSchedulingIgnoredDuringExecution:
    nodeSelectorTerms:
      - matchExpressions:
          - key: kubernetes.io/os
            operator: In
            values: [linux]
          - key: kubernetes.io/arch
            operator: In
            values: [amd64, arm64]
{{- end }}

{{- define "lamella.cvmfsNames" -}}
{{- $names := list -}}
{{- range .Values.repositories }}{{ $names = append $names .name }}{{ end -}}
{{ .Values.cvmfs.repositories | default $names | toJson }}
{{- end }}

{{- /* The three ways in which a pod sees /cvmfs. */ -}}
{{- define "lamella.cvmfsMounts" -}}
{{- if eq .Values.cvmfs.shape "hostPath" }}
{{- range include "lamella.cvmfsNames" . | fromJsonArray }}
- name: {{ . | replace "." "-" }}
  mountPath: /cvmfs/{{ . }}
  readOnly: true
  mountPropagation: HostToContainer
{{- end }}
{{- else if ne .Values.cvmfs.shape "none" }}
- name: cvmfs
  mountPath: /cvmfs
  readOnly: true
  mountPropagation: HostToContainer
{{- end }}
{{- end }}

{{- define "lamella.cvmfsVolumes" -}}
{{- if eq .Values.cvmfs.shape "hostPath" }}
{{- range include "lamella.cvmfsNames" . | fromJsonArray }}
- name: {{ . | replace "." "-" }}
  hostPath:
    path: {{ $.Values.mountBase }}/{{ . }}
    type: Directory
{{- end }}
{{- else if eq .Values.cvmfs.shape "tree" }}
- name: cvmfs
  hostPath:
    path: {{ .Values.mountBase }}
    type: Directory
{{- else if eq .Values.cvmfs.shape "claim" }}
- name: cvmfs
  persistentVolumeClaim:
    claimName: {{ .Values.cvmfs.claim }}
    readOnly: true
{{- end }}
{{- end }}
