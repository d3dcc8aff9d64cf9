package contracts

import (
	"errors"
	"fmt"
)

// FaultPart names the part of a worker that does not work. It is a metric's label, so there are few.
type FaultPart string

// The parts.
const (
	// FaultDatabase is the worker's login at a database server, or the name of a database.
	FaultDatabase FaultPart = "database"
	// FaultIdentity is the worker's own AWS identity: absent, expired, refused, or without a way to ask STS.
	FaultIdentity FaultPart = "aws_identity"
	// FaultNATS is the rights of the worker's NATS user.
	FaultNATS FaultPart = "nats"
	// FaultEndpoint is an S3 endpoint that other workers of the fleet may talk to, and this worker may not.
	FaultEndpoint FaultPart = "endpoint"
	// FaultHouseRole is the role of the operator's own bucket.
	FaultHouseRole FaultPart = "house_role"
)

// FaultParts lists every part, in the order in which an operator should look at them.
func FaultParts() []FaultPart {
	return []FaultPart{FaultNATS, FaultIdentity, FaultDatabase, FaultEndpoint, FaultHouseRole}
}

// WorkerFault is a failure of the worker itself: of its login, its identity, its rights or its settings. It says nothing
// about a job or its customer. It never ends a job: the worker gives the job back without blame. An error that has a
// WorkerFault and a [Rejection] in its chain is a fault.
type WorkerFault struct {
	Part FaultPart
	// Name says which one, where a worker has several: a database's name, or an endpoint. Empty: there is only one.
	Name string
	Err  error // what happened
}

// Fault makes a [WorkerFault]. The text says what happened; cause and fix come from the part.
func Fault(part FaultPart, name, format string, args ...any) error {
	return &WorkerFault{Part: part, Name: name, Err: fmt.Errorf(format, args...)}
}

// Error is one line: part, what, cause, fix.
func (f *WorkerFault) Error() string {
	a := f.Advice()
	return fmt.Sprintf("%s; cause: %s; fix: %s", f.Summary(), a.Cause, a.Fix)
}

// Summary says what is wrong with which part, without cause and fix.
func (f *WorkerFault) Summary() string {
	part, ok := faultNames[f.Part]
	if !ok {
		part = "the worker"
	}
	if f.Name != "" {
		part = fmt.Sprintf("%s %.80q", part, f.Name)
	}
	return fmt.Sprintf("%s: %v", part, f.Err)
}

// Unwrap returns what happened.
func (f *WorkerFault) Unwrap() error { return f.Err }

// Advice is the usual cause and the fix. It is never a customer who fixes it.
func (f *WorkerFault) Advice() Advice { return faultAdvice[f.Part] }

// AsWorkerFault finds the worker's fault in err's chain.
func AsWorkerFault(err error) (*WorkerFault, bool) { return errors.AsType[*WorkerFault](err) }

var faultNames = map[FaultPart]string{
	FaultDatabase:  "the worker's database",
	FaultIdentity:  "the worker's AWS identity",
	FaultNATS:      "the worker's NATS user",
	FaultEndpoint:  "the worker's allowed endpoints",
	FaultHouseRole: "the role of the house bucket",
}

var faultAdvice = map[FaultPart]Advice{
	FaultDatabase: {
		Cause: "the user, the password, the database's name or the certificate is wrong in --database-url, --databases or the PG variables, was changed on the server, or this worker's --databases lacks a database that other workers have",
		Fix:   "correct --database-url, or the file that --databases names, on every worker; a worker has to be started again",
	},
	FaultIdentity: {
		Cause: "this worker has no AWS credentials, they have expired, STS refuses them, or a CA bundle is missing; it is not the customer's role",
		Fix:   "give the worker's pod or host its IAM role (IRSA, instance profile) or AWS_ variables, check AWS_CA_BUNDLE, and see that `aws sts get-caller-identity` works there",
	},
	FaultNATS: {
		Cause: "this NATS user is not the worker of deploy/nats, or its permissions are of another release",
		Fix:   "check the worker's --nats-nkey or --nats-creds, its --nats-inbox (_INBOX_worker with deploy/nats), and the server's permissions",
	},
	FaultEndpoint: {
		Cause: "a tenant's record names an S3 endpoint that other workers of the fleet allow and this one does not",
		Fix:   "give all workers the same --allow-endpoint",
	},
	FaultHouseRole: {
		Cause: "the role of the house bucket does not exist, or its trust policy does not name our account and the external ID of the house's record",
		Fix:   "create or correct the role with the policies that `snapfleet setup` prints",
	},
}
