// Command kubernetes is Kubernetes' control plane, kubelet and kubectl, and etcd, in one program.
//
// The parts share nearly all of their code, so one program takes a fraction of the time and the space that six take.
// Which part it is, the name says under which it is started, as of a link, or else the first argument:
//
//	ln -s kubernetes kubelet && ./kubelet --version
//	./kubernetes kubelet --version
//
// containerd is a module of its own beside this one: it asks for newer k8s.io modules than Kubernetes is published
// with, and the replacements without which Kubernetes cannot be a dependency would hold in both.
package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	_ "time/tzdata" // a CronJob's time zone must not depend on what the machine has installed

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// usage is the exit status of a wrong command line.
const usage = 2

// parts maps the names under which this program can be started to what it then is: a function that runs until the
// part ends and returns its exit status.
var parts = map[string]func() int{
	"etcd":                    runEtcd,
	"kube-apiserver":          func() int { return cli.Run(apiserver.NewAPIServerCommand()) },
	"kube-controller-manager": func() int { return cli.Run(controllermanager.NewControllerManagerCommand()) },
	"kube-scheduler":          func() int { return cli.Run(scheduler.NewSchedulerCommand()) },
	"kubectl":                 func() int { return runKubectl(kubectl.NewDefaultKubectlCommand()) },
	"kubelet":                 func() int { return cli.Run(kubelet.NewKubeletCommand(context.Background())) },
}

func main() {
	part, found := parts[filepath.Base(os.Args[0])]
	if !found && len(os.Args) > 1 {
		part, found = parts[os.Args[1]]
		// Each part reads the command line itself, kubectl more than once.
		os.Args = os.Args[1:]
	}
	if !found {
		names := strings.Join(slices.Sorted(maps.Keys(parts)), ", ")
		fmt.Fprintf(os.Stderr, "start this program under one of these names, or with one as first argument: %s\n", names)
		os.Exit(usage)
	}
	os.Exit(part())
}

// runKubectl prints an error the way a person at a terminal expects it, where the other parts log it.
func runKubectl(command *cobra.Command) int {
	if err := cli.RunNoErrOutput(command); err != nil {
		kubectlutil.CheckErr(err)
	}
	return 0
}
