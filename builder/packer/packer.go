// Package packer is the engine behind Packer's door: builders, a provisioner and a data source that translate HCL
// into overrides of the spec and hand over. It holds no second copy of any rule or step.
package packer
