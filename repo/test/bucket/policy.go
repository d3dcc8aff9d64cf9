package bucket

import (
	"encoding/json"
	"strings"

	"github.com/versity/versitygw/auth"
	"github.com/versity/versitygw/iamapi/policy"
	"github.com/versity/versitygw/iamapi/types"
)

// EvaluatePolicy implements auth.PolicyEvaluator: what the principal's own policies say. The gateway adds
// the bucket's policy: there a deny wins, and one allow of the two is enough, which is right within an
// account. Across accounts both must allow, so there an allow of ours counts as silence and a silence as
// a deny.
func (r *registry) EvaluatePolicy(access, _ string, actions []auth.Action, resources []string, cond map[string][]string) (auth.PolicyEvaluation, error) {
	p, ok := r.principal(access)
	if !ok {
		return auth.PolicyEvaluation{}, auth.ErrNoSuchUser
	}
	identity := func(action, resource string) policy.Decision {
		d := decide(p.policy, action, resource, cond)
		if !r.foreign(p.arn, resource) || d == policy.DecisionDeny {
			return d
		}
		if d == policy.DecisionAllow {
			return policy.DecisionNoMatch
		}
		return policy.DecisionDeny
	}
	evaluation := auth.PolicyEvaluation{PrincipalArn: p.arn, HasSessionPolicy: p.sessionPolicy != ""}
	fill(&evaluation.Decisions, matrix(actions, resources, identity))
	if evaluation.HasSessionPolicy {
		fill(&evaluation.SessionDecisions, matrix(actions, resources, func(action, resource string) policy.Decision {
			return decide(p.sessionPolicy, action, resource, cond)
		}))
	}
	return evaluation, nil
}

// foreign: the resource is in a bucket of another account than the principal's.
func (r *registry) foreign(arn, resource string) bool {
	bucket, _, _ := strings.Cut(strings.TrimPrefix(resource, "arn:aws:s3:::"), "/")
	r.mu.RLock()
	defer r.mu.RUnlock()
	owner, known := r.owners[bucket]
	return known && owner != account(arn)
}

// mayList: whether the principal's policies let it know which keys a bucket has.
func (r *registry) mayList(p principal, bucket, key string) bool {
	cond := map[string][]string{"s3:prefix": {key}}
	arn := "arn:aws:s3:::" + bucket
	return decide(p.policy, "s3:ListBucket", arn, cond) == policy.DecisionAllow &&
		(p.sessionPolicy == "" || decide(p.sessionPolicy, "s3:ListBucket", arn, cond) == policy.DecisionAllow)
}

func decide(doc, action, resource string, cond map[string][]string) policy.Decision {
	if doc == "" {
		return policy.DecisionNoMatch
	}
	return policy.EvaluateIdentityPolicies([]types.PolicyEntry{{PolicyDocument: doc}},
		policy.RequestContext{Action: action, Resource: resource, Condition: cond})
}

func matrix(actions []auth.Action, resources []string, f func(action, resource string) policy.Decision) [][]policy.Decision {
	out := make([][]policy.Decision, len(resources))
	for i, resource := range resources {
		for _, a := range actions {
			out[i] = append(out[i], f(string(a), resource))
		}
	}
	return out
}

// fill copies decisions into the gateway's own unexported type, which inference can name and we cannot.
// Both count 0 silence, 1 allow, 2 deny.
func fill[T ~int](dst *[][]T, src [][]policy.Decision) {
	*dst = make([][]T, len(src))
	for i := range src {
		for _, d := range src[i] {
			(*dst)[i] = append((*dst)[i], T(d))
		}
	}
}

// trusts evaluates a trust policy. The statements whose principal is the caller are judged like an
// identity policy, which is what they are once the principal is settled.
func trusts(trust string, caller principal, cond map[string][]string) bool {
	var doc policy.Document
	if err := json.Unmarshal([]byte(trust), &doc); err != nil {
		return false
	}
	type statement struct {
		Effect    string
		Action    any             `json:",omitempty"`
		NotAction any             `json:",omitempty"`
		Resource  string          `json:",omitempty"`
		Condition json.RawMessage `json:",omitempty"`
	}
	applies := struct {
		Version   string `json:",omitempty"`
		Statement []statement
	}{Version: doc.Version}
	for _, s := range doc.Statement {
		if !names(s.Principal, caller) {
			continue
		}
		t := statement{Effect: s.Effect, Resource: "*"}
		if len(s.Action) > 0 {
			t.Action = s.Action
		} else {
			t.NotAction = s.NotAction
		}
		if raw, err := json.Marshal(s.Condition); err == nil && string(raw) != "null" {
			t.Condition = raw
		}
		applies.Statement = append(applies.Statement, t)
	}
	if len(applies.Statement) == 0 {
		return false
	}
	raw, err := json.Marshal(applies)
	return err == nil && decide(string(raw), "sts:AssumeRole", "*", cond) == policy.DecisionAllow
}

// names: whether a Principal element names the caller, as itself, as its role or as its account.
func names(element json.RawMessage, caller principal) bool {
	var by map[string]policy.StringOrSlice
	if json.Unmarshal(element, &by) != nil {
		return false
	}
	id := account(caller.arn)
	for _, name := range by["AWS"] {
		switch name {
		case "*", caller.arn, id, "arn:aws:iam::" + id + ":root":
			return true
		case caller.role:
			return name != ""
		}
	}
	return false
}
