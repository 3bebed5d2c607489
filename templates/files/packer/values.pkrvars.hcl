# Values of build.pkr.hcl's variables; Packer reads this file by itself.
{{range .Values}}
{{.Name}} = {{.Value}}
{{- end}}
