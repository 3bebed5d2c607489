# The user-data that tells a baked image who it is, written to a file.

packer {
  required_plugins {
    dorunner = {
      source  = "github.com/dorunner/dorunner"
      version = ">= 0.1.0"
    }
  }
}

data "dorunner-user-data" "runner" {
  target = "aws"
  name   = "dataops-runner-london"
  url    = "https://app.dataops.live"
  token  = "ssm:/dorunner/token"

  vault {
    content = "ssm:/dorunner/vault.yml"
    salt    = "ssm:/dorunner/vault.salt"
  }
}

source "file" "user-data" {
  content = data.dorunner-user-data.runner.content
  target  = "user-data.yaml"
}

build {
  sources = ["source.file.user-data"]
}
