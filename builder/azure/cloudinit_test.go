package azure

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/dorunner/dorunner-bake/builder/ssh"
	"github.com/dorunner/dorunner-bake/cloudinit"
	"github.com/dorunner/dorunner-bake/firstboot/runner"
	"github.com/dorunner/dorunner-bake/templates"
)

// judge has the Azure datasource read a directory with an ovf-env.xml, as it reads the disc that Azure gives a machine,
// prints the custom data and holds it against the schema.
const judge = `
import sys, yaml
from cloudinit.sources.DataSourceAzure import load_azure_ds_dir
from cloudinit.config.schema import validate_cloudconfig_schema, get_schema
metadata, data, config, files = load_azure_ds_dir(sys.argv[1])
assert metadata["local-hostname"] == "dorunner-bake", metadata
assert config["system_info"]["default_user"]["name"] == "dorunner-bake", config
assert config["ssh_pwauth"] is False, config
validate_cloudconfig_schema(yaml.safe_load(data), get_schema(), strict=True)
sys.stdout.buffer.write(data)
`

// ovfEnv is what Azure gives a machine, with the custom data in it.
func ovfEnv(customData []byte) string {
	return fmt.Sprintf(`<?xml version="1.0" encoding="utf-8"?>
<ns0:Environment xmlns="http://schemas.dmtf.org/ovf/environment/1" xmlns:ns0="http://schemas.dmtf.org/ovf/environment/1" xmlns:ns1="http://schemas.microsoft.com/windowsazure">
  <ns1:ProvisioningSection><ns1:Version>1.0</ns1:Version>
    <ns1:LinuxProvisioningConfigurationSet>
      <ns1:ConfigurationSetType>LinuxProvisioningConfiguration</ns1:ConfigurationSetType>
      <ns1:HostName>dorunner-bake</ns1:HostName><ns1:UserName>dorunner-bake</ns1:UserName>
      <ns1:DisableSshPasswordAuthentication>true</ns1:DisableSshPasswordAuthentication>
      <ns1:CustomData>%s</ns1:CustomData>
    </ns1:LinuxProvisioningConfigurationSet>
  </ns1:ProvisioningSection>
  <ns1:PlatformSettingsSection><ns1:Version>1.0</ns1:Version>
    <ns1:PlatformSettings><ns1:KmsServerHostname>kms.core.windows.net</ns1:KmsServerHostname><ns1:ProvisionGuestAgent>true</ns1:ProvisionGuestAgent></ns1:PlatformSettings>
  </ns1:PlatformSettingsSection>
</ns0:Environment>`, base64.StdEncoding.EncodeToString(customData))
}

// The real cloud-init's Azure datasource gets out of the custom data what was put in, and finds nothing wrong with it.
func TestCustomDataInCloudInit(t *testing.T) {
	if testing.Short() {
		t.Skip("not in short mode: runs the real cloud-init")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	packages := filepath.Join(cache, "dorunner-bake", "tools", "cloud-init", "usr", "lib", "python3", "dist-packages")
	if _, err := os.Stat(packages); err != nil {
		t.Skipf("cloud-init is not unpacked: .ci/fetch-cloud-init: %v", err)
	}
	host, err := ssh.NewKey("root@vm")
	if err != nil {
		t.Fatal(err)
	}
	bake, err := templates.Render("azure/bake.yaml", map[string]string{"HostKey": host.PrivatePEM, "HostKeyPublic": host.Authorized, "User": bakeUser})
	if err != nil {
		t.Fatal(err)
	}
	test, err := templates.Render("azure/test-boot.yaml", map[string]string{"Mark": "dorunner-selftest x"})
	if err != nil {
		t.Fatal(err)
	}
	who := runner.Default()
	who.Name, who.URL = "dataops-runner-zürich", "https://gitlab.example.com"
	if who.Token, err = runner.ParseSecret("keyvault:https://v.vault.azure.net/secrets/t"); err != nil {
		t.Fatal(err)
	}
	launch, err := cloudinit.UserData(who, cloudinit.UserDataOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"bake": bake, "test boot": test, "launch": launch} {
		disc := t.TempDir()
		if err := os.WriteFile(filepath.Join(disc, "ovf-env.xml"), []byte(ovfEnv(data)), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("/usr/bin/python3", "-c", judge, disc) // the system's, which has the libraries
		cmd.Env = append(os.Environ(), "PYTHONPATH="+packages, "PYTHONDONTWRITEBYTECODE=1")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, stderr.String())
		} else if !bytes.Equal(out, data) {
			t.Errorf("%s: cloud-init gets\n%s\nout of\n%s", name, out, data)
		}
	}
}
