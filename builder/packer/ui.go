package packer

import (
	"fmt"
	"log"
	"sync"
	"time"

	packersdk "github.com/hashicorp/packer-plugin-sdk/packer"

	"github.com/dorunner/dorunner-bake/builder"
)

// progress tells a bake's progress through Packer's user interface.
type progress struct {
	ui packersdk.Ui
	// pause waits between steps, for packer build -debug; nil does not.
	pause func(step string)

	mu      sync.Mutex
	quarter map[string]int64
}

func (p *progress) Step(name string) {
	if p.pause != nil {
		p.pause(name)
	}
	p.mu.Lock()
	p.quarter = map[string]int64{}
	p.mu.Unlock()
	p.ui.Say(name)
}

// StepDone leaves failures to the build's own error, which Packer prints.
func (p *progress) StepDone(name string, took time.Duration, err error) {
	if err == nil {
		p.ui.Say(fmt.Sprintf("%s done in %.1fs", name, took.Seconds()))
	}
}

func (p *progress) Info(format string, args ...any) { p.ui.Say(fmt.Sprintf(format, args...)) }
func (p *progress) Warn(format string, args ...any) { p.ui.Error(fmt.Sprintf(format, args...)) }

// Log goes where plugins log: PACKER_LOG=1 shows it.
func (p *progress) Log(line string) { log.Print(line) }

// Count tells each quarter once.
func (p *progress) Count(what string, done, total int64, unit string) {
	if total <= 0 {
		return
	}
	quarter := done * 4 / total
	p.mu.Lock()
	told := p.quarter[what]
	if p.quarter != nil {
		p.quarter[what] = max(told, quarter)
	}
	p.mu.Unlock()
	if quarter > told {
		p.ui.Say(fmt.Sprintf("%s: %d %%", what, done*100/total))
	}
}

var _ builder.Progress = (*progress)(nil)
