package cloudinit

// Autoinstall is the part of Ubuntu's unattended installation that we write.
type Autoinstall struct {
	Version int `yaml:"version"` // 1
}
