# Values of build.pkr.hcl's variables; Packer reads this file by itself.

spec_file = "dorunner.yaml"
os        = "debian-12"
formats   = ["qcow2", "vhd"]
platform  = "nocloud"
