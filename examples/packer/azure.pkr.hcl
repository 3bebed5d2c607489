# A gallery version through Packer: the same bake as `dorunner-bake azure`.

packer {
  required_plugins {
    dorunner = {
      source  = "github.com/dorunner/dorunner"
      version = ">= 0.1.0"
    }
  }
}

source "dorunner-azure" "runner" {
  os                  = "ubuntu-20.04"
  resource_group_name = "runners"
  location            = "westeurope"
  vm_size             = "Standard_D4as_v5"
  gallery_name        = "images"
  gallery_image_name  = "dorunner"
  replication_regions = ["northeurope"]
  test_boot           = true
  keep                = 3
}

build {
  sources = ["source.dorunner-azure.runner"]

  post-processor "manifest" {
    output = "packer-manifest.json"
  }
}
