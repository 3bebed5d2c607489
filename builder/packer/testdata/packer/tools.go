//go:build tools

// Package packertool pins the Packer that tests drive.
package packertool

import _ "github.com/hashicorp/packer"
