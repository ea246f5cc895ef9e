#!/usr/bin/env bash
# Shows in your own account what no test elsewhere can.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

help() {
  cat <<'END'
Verifies a deployment of bringup.sh. It leaves nothing changed; it runs one short Fargate task, which writes
a file to its volume and deletes it, and asks DynamoDB for puts that cannot succeed.

  - IAM Access Analyzer validates the policies of the roles and who may take them on.
  - IAM's simulator is asked for each call that a role must be allowed, and for a list that it must not.
  - A task of the embedded model, with the command `check` instead of the worker, says what it finds
    on Fargate: kernel, user, volume, hardening, and what its role may read.

Usage: scripts/verify.sh [--model embedded|injected|both] [--private] [--no-task] [--dry-run]

  --private   as in bringup.sh
  --no-task   run no task
  --dry-run   say what would be asked

Needs AWSACCOUNT, REGION, and for the task SUBNET1, SUBNET2, SECURITYGROUP; the tools aws and jq.
END
}

models=(embedded) public_ip=ENABLED task=1
while (($# > 0)); do
  case $1 in
    --model) read_models "${2:-}"; shift ;;
    --private) public_ip=DISABLED ;;
    --no-task) task='' ;;
    --dry-run) dry_run=1 ;;
    --help | -h) help; exit ;;
    *) usage_error 'unknown argument' ;;
  esac
  shift
done
[[ ${models[0]} == embedded ]] || task=''

passed=0 failed=0
ok() {
  passed=$((passed + 1))
  say "ok    $1"
}
wrong() {
  failed=$((failed + 1))
  say "FAIL  $1"
}

# validate TYPE DOCUMENT NAME [RESOURCE_TYPE]
validate() {
  local kind=()
  # A trust policy names no resource, and is an error unless Access Analyzer is told what it is.
  [[ -z ${4:-} ]] || kind=(--validate-policy-resource-type "$4")
  if [[ $dry_run ]]; then
    say "would validate $3"
    return
  fi
  seek '' accessanalyzer validate-policy --policy-type "$1" --policy-document "$2" "${kind[@]}"
  if jq -e 'any(.findings[]; .findingType == "ERROR" or .findingType == "SECURITY_WARNING")' <<<"$answer" >/dev/null; then
    wrong "Access Analyzer on $3: $(jq -r '[.findings[] | "\(.findingType) \(.issueCode)"] | join(", ")' <<<"$answer")"
  else
    ok "Access Analyzer on $3$(jq -r '[.findings[] | " (\(.findingType) \(.issueCode))"] | join("")' <<<"$answer")"
  fi
}

# simulate DECISION ROLE ACTION RESOURCE [STAGE]: what IAM says is the decision, allowed or denied.
simulate() {
  local wanted=$1 role=$2 action=$3 resource=$4 stage=${5:-} context=() found
  local what="$role $wanted $action on ${resource##*:}${stage:+ at $stage}"
  if [[ $dry_run ]]; then
    say "would ask whether $what"
    return
  fi
  if [[ $stage ]]; then
    context=(--context-entries
      "ContextKeyName=secretsmanager:VersionStage,ContextKeyValues=$stage,ContextKeyType=string")
  fi
  seek '' iam simulate-principal-policy --policy-source-arn "arn:aws:iam::$AWSACCOUNT:role/$role" \
    --action-names "$action" --resource-arns "$resource" "${context[@]}"
  found=$(jq -r '.EvaluationResults[0].EvalDecision' <<<"$answer")
  if [[ $wanted == allowed && $found == allowed ]] || [[ $wanted == denied && $found == *Deny ]]; then
    ok "$what"
  else
    wrong "$what: IAM says $found"
  fi
}

check_policies() {
  local model file
  validate RESOURCE_POLICY "$(filled_in iam/trust-policy.json)" trust-policy AWS::IAM::AssumeRolePolicyDocument
  for model in "${models[@]}"; do
    for file in "task-role-$model" "task-execution-role-$model"; do
      validate IDENTITY_POLICY "$(filled_in "iam/$file.json")" "$file"
    done
  done
  validate IDENTITY_POLICY "$(filled_in iam/task-role-rotation-queue.json)" task-role-rotation-queue
}

# Each secret by its real ARN; then what must not be had.
check_roles() {
  local model role execution name arn table=arn:aws:dynamodb:$REGION:$AWSACCOUNT:table
  local repository=arn:aws:ecr:$REGION:$AWSACCOUNT:repository logs=arn:aws:logs:$REGION:$AWSACCOUNT:log-group
  for model in "${models[@]}"; do
    role=twitterstream-$model-task-role execution=twitterstream-$model-task-execution-role
    for name in "${SECRETS[@]}"; do
      secret_of "$name" || die "$name is not there" 'create it with scripts/secrets.sh'
      arn=$(jq -r .ARN <<<"$answer")
      if [[ $model == embedded ]]; then
        simulate allowed "$role" secretsmanager:GetSecretValue "$arn" AWSCURRENT
        simulate allowed "$role" secretsmanager:DescribeSecret "$arn"
        simulate denied "$role" secretsmanager:GetSecretValue "$arn" AWSPREVIOUS
        simulate denied "$role" secretsmanager:GetSecretValue "$arn" AWSPENDING
        simulate denied "$execution" secretsmanager:GetSecretValue "$arn" AWSCURRENT
        simulate denied "$execution" secretsmanager:DescribeSecret "$arn"
      else
        simulate denied "$role" secretsmanager:GetSecretValue "$arn" AWSCURRENT
        simulate allowed "$execution" secretsmanager:GetSecretValue "$arn"
      fi
      simulate denied "$role" secretsmanager:PutSecretValue "$arn"
      simulate denied "$role" secretsmanager:UpdateSecretVersionStage "$arn"
    done
    arn=arn:aws:secretsmanager:$REGION:$AWSACCOUNT:secret:another-AbCdEf
    simulate denied "$role" secretsmanager:GetSecretValue "$arn" AWSCURRENT
    simulate denied "$execution" secretsmanager:GetSecretValue "$arn" AWSCURRENT
    simulate denied "$role" secretsmanager:BatchGetSecretValue '*'
    simulate denied "$role" secretsmanager:ListSecrets '*'
    simulate allowed "$role" dynamodb:PutItem "$table/$TABLE"
    simulate denied "$role" dynamodb:PutItem "$table/another"
    for action in GetItem Query Scan UpdateItem DeleteItem BatchWriteItem; do
      simulate denied "$role" "dynamodb:$action" "$table/$TABLE"
    done
    simulate denied "$role" kms:Decrypt "arn:aws:kms:$REGION:$AWSACCOUNT:key/another"
    simulate denied "$role" sts:AssumeRole "arn:aws:iam::$AWSACCOUNT:role/another"
    simulate denied "$role" iam:PassRole "arn:aws:iam::$AWSACCOUNT:role/$role"
    simulate denied "$role" ssm:GetParameter "arn:aws:ssm:$REGION:$AWSACCOUNT:parameter/another"
    simulate allowed "$execution" ecr:GetAuthorizationToken '*'
    for action in BatchCheckLayerAvailability BatchGetImage GetDownloadUrlForLayer; do
      simulate allowed "$execution" "ecr:$action" "$repository/$REPOSITORY"
      simulate denied "$execution" "ecr:$action" "$repository/another"
    done
    simulate allowed "$execution" logs:CreateLogStream "$logs:$LOG_GROUP:log-stream:twitterstream/a"
    simulate allowed "$execution" logs:PutLogEvents "$logs:$LOG_GROUP:log-stream:twitterstream/a"
    simulate denied "$execution" logs:PutLogEvents "$logs:another:log-stream:a"
    simulate denied "$execution" dynamodb:PutItem "$table/$TABLE"
  done
}

# The task writes one line of JSON for each finding, with ok or not.
check_task() {
  local network overrides arn stream try
  network=$(jq -n --arg one "$SUBNET1" --arg two "$SUBNET2" --arg group "$SECURITYGROUP" --arg public "$public_ip" \
    '{awsvpcConfiguration: {subnets: [$one, $two], securityGroups: [$group], assignPublicIp: $public}}')
  overrides='{"containerOverrides": [{"name": "twitterstream", "command": ["check"]}]}'
  change 'run a task of twitterstream-embedded with the command check' ecs run-task --cluster "$CLUSTER" \
    --launch-type FARGATE --task-definition twitterstream-embedded --network-configuration "$network" \
    --overrides "$overrides" --started-by verify.sh --tags "key=$TAG_KEY,value=$TAG_VALUE"
  [[ ! $dry_run ]] || return 0
  arn=$(jq -r '.tasks[0].taskArn // ""' <<<"$answer")
  [[ $arn ]] || die "the task was not started: $(jq -r '[.failures[].reason] | join(", ")' <<<"$answer")"
  stream=twitterstream/twitterstream/${arn##*/}
  for ((try = 0; ; try++)); do
    ((try < ${WAIT_TRIES:-120})) || die "the task has not ended: $arn" 'stop it with scripts/teardown.sh or aws ecs stop-task'
    seek '' ecs describe-tasks --cluster "$CLUSTER" --tasks "$arn"
    if [[ $(jq -r '.tasks[0].lastStatus' <<<"$answer") == STOPPED ]]; then break; fi
    sleep "${WAIT_SECONDS:-5}"
  done
  say "the task ended: $(jq -r '.tasks[0] | "\(.stoppedReason // "") exit code \(.containers[0].exitCode)"' <<<"$answer")"
  # The last lines may take a moment to arrive.
  for ((try = 0; try < 12; try++)); do
    if seek ResourceNotFoundException logs get-log-events --log-group-name "$LOG_GROUP" \
      --log-stream-name "$stream" --start-from-head &&
      jq -e 'any(.events[].message | fromjson?; .check == "end")' <<<"$answer" >/dev/null; then break; fi
    sleep "${WAIT_SECONDS:-5}"
  done
  [[ $answer ]] || die "the task left no log in stream $stream" 'see why it ended above'
  local line
  while IFS= read -r line; do
    if [[ $line == true* ]]; then ok "on Fargate: ${line#* }"; else wrong "on Fargate: ${line#* }"; fi
  done < <(jq -r '.events[].message | fromjson? | select(.check) | "\(.ok) \(.check): \(.found)"' <<<"$answer")
  jq -e 'any(.events[].message | fromjson?; .check == "end")' <<<"$answer" >/dev/null ||
    wrong 'the task did not come to its end'
}

need_tools aws jq
if [[ $task ]]; then
  need_variables AWSACCOUNT REGION SUBNET1 SUBNET2 SECURITYGROUP
else
  need_variables AWSACCOUNT REGION
fi
need_account
check_policies
check_roles
if [[ $task ]]; then check_task; fi
[[ $dry_run ]] || say "$passed passed, $failed failed"
((failed == 0))
