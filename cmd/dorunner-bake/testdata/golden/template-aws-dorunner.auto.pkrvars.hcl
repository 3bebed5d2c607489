# Values of build.pkr.hcl's variables; Packer reads this file by itself.

spec_file      = "dorunner.yaml"
os             = "ubuntu-20.04"
region         = "eu-west-1"
instance_types = ["t3a.xlarge", "m6a.xlarge"]
ami_regions    = ["us-east-1"]
publish        = "/runners/ami"
keep           = 5
