# Written by `dorunner-bake template packer`. The values of its variables are in dorunner.auto.pkrvars.hcl; credentials come
# from where the cloud's own command line finds them.
#
#   packer init .
#   packer build .

packer {
  required_plugins {
    dorunner = {
      source = "github.com/dorunner/dorunner"
      version = ">= {{.Release}}"
    }
  }
}
{{range .Values}}
variable "{{.Name}}" {
  type = {{.Type}}
  description = "{{.Description}}"
}
{{end}}
variable "registry_username" {
  type = string
  default = env("DORUNNER_REGISTRY_USERNAME")
  description = "A login that may pull the runner's image. It never reaches the image."
}

variable "registry_password" {
  type = string
  default = env("DORUNNER_REGISTRY_PASSWORD")
  sensitive = true
  description = "The login's password, or where it is: env:NAME, file:/path."
}

source "dorunner-{{.Target}}" "runner" {
{{- range .Values}}
  {{.Name}} = var.{{.Name}}
{{- end}}
  registry_username = var.registry_username
  registry_password = var.registry_password
{{- if .TestBoot}}
  test_boot = true
{{- end}}
}

build {
  sources = ["source.dorunner-{{.Target}}.runner"]

  # Provisioners work in the image before it is sealed, for example:
  #
  #   provisioner "shell" {
  #     inline = ["apt-get install -y chrony"]
  #   }

  post-processor "manifest" {
    output = "packer-manifest.json"
  }
}
