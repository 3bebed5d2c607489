# Values of build.pkr.hcl's variables; Packer reads this file by itself.

spec_file           = "dorunner.yaml"
os                  = "ubuntu-20.04"
resource_group_name = "runners"
location            = "westeurope"
vm_sizes            = ["Standard_D4as_v5"]
gallery_name        = "images"
gallery_image_name  = "dorunner"
replication_regions = ["northeurope"]
keep                = 3
