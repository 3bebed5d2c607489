// Command packer-plugin-dorunner is the engine as a Packer plugin.
package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/hashicorp/packer-plugin-sdk/plugin"
	"github.com/hashicorp/packer-plugin-sdk/version"

	"github.com/dorunner/dorunner-bake/builder/packer"
)

// release is set by the linker: a semantic version without v, as the name of the plugin's file has it.
var release = "0.1.0"

func main() {
	set := plugin.NewSet()
	number, pre, _ := strings.Cut(release, "-")
	set.SetVersion(version.NewPluginVersion(number, pre, ""))
	set.RegisterBuilder("aws", new(packer.AWS))
	set.RegisterBuilder("azure", new(packer.Azure))
	set.RegisterBuilder("metal", new(packer.Metal))
	set.RegisterProvisioner(plugin.DEFAULT_NAME, new(packer.Provisioner))
	set.RegisterDatasource("user-data", new(packer.UserData))
	if err := set.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
