#!/usr/bin/env bash
# Deploys the worker, its counter-example, or both.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

help() {
  cat <<'END'
Deploys to AWS Fargate: image, table, log group, roles, cluster, task definition and service. What is
there already and as it should be stays; the script can stop at any step and be run again.

Usage: scripts/bringup.sh [OPTION]...

  --model MODEL         embedded (the default): the worker asks Secrets Manager itself; injected: ECS
                        puts the secrets into its environment; both
  --env NAME=VALUE      a variable of README.md, such as FILTER, FEED or READ_BUDGET; repeatable
  --run-task            one task instead of a service that keeps one running
  --private             no public address: the subnets have a NAT gateway or VPC endpoints
  --arm64               build for, and run on, Graviton
  --skip-build          use the images that the repository has
  --rotation-queue      hear of rotations at once: an EventBridge rule and an SQS queue (embedded)
  --customer-key ARN    the secrets are encrypted with this KMS key of yours
  --vpc-endpoint ID     refuse the worker its secrets but through this endpoint (vpce-...)
  --alarm EMAIL         tell this address when anyone but the tasks reads a secret
  --retention DAYS      how long the log is kept (30)
  --dry-run             say what would be done
  --help

Needs the four secrets (scripts/secrets.sh), the tools aws, jq and docker, podman or buildah, and

  export AWSACCOUNT=123456789012 REGION=us-west-2
  export SUBNET1=subnet-87654321 SUBNET2=subnet-12345678 SECURITYGROUP=sg-12345678
END
}

models=(embedded) environment=() service=1 public_ip=ENABLED platform=linux/amd64 architecture=X86_64
build=1 queue='' customer_key='' vpc_endpoint='' alarm='' retention=30
while (($# > 0)); do
  case $1 in
    --model) read_models "${2:-}"; shift ;;
    --env) environment+=("$(value_of "$1" "$@")"); shift ;;
    --run-task) service='' ;;
    --private) public_ip=DISABLED ;;
    --arm64) platform=linux/arm64 architecture=ARM64 ;;
    --skip-build) build='' ;;
    --rotation-queue) queue=1 ;;
    --customer-key) customer_key=$(value_of "$1" "$@"); shift ;;
    --vpc-endpoint) vpc_endpoint=$(value_of "$1" "$@"); shift ;;
    --alarm) alarm=$(value_of "$1" "$@"); shift ;;
    --retention) retention=$(value_of "$1" "$@"); shift ;;
    --dry-run) dry_run=1 ;;
    --help | -h) help; exit ;;
    *) usage_error 'unknown argument' ;;
  esac
  shift
done
for pair in "${environment[@]}"; do
  [[ $pair =~ ^[A-Z_][A-Z0-9_]*=. ]] || usage_error '--env takes NAME=VALUE'
  [[ " ${SECRETS[*]} " != *" ${pair%%=*} "* ]] ||
    usage_error "--env is readable by everyone who may see the task definition: put ${pair%%=*} into Secrets Manager"
  # X's forms, as the worker knows them.
  [[ " ${SECRETS[*]/%/_SECRET} " != *" ${pair%%=*} "* ||
    ! ${pair#*=} =~ ^([[:alnum:]]{25}|[[:alnum:]]{45}|[[:alnum:]]{50}|[0-9]+-[[:alnum:]]{30,})$ ]] ||
    usage_error "${pair%%=*} takes the name or ARN of a secret, and this looks like a credential's value: put that into Secrets Manager; of a secret that is really named so, give the ARN"
done
[[ -z $customer_key || $customer_key =~ ^arn:aws:kms:[a-z0-9-]+:[0-9]{12}:key/. ]] ||
  usage_error '--customer-key takes the ARN of a key, not of an alias'
[[ -z $vpc_endpoint || $vpc_endpoint =~ ^vpce-[0-9a-f]+$ ]] || usage_error '--vpc-endpoint takes vpce-...'
[[ -z $alarm || $alarm =~ ^[^@[:space:]]+@[^@[:space:]]+$ ]] || usage_error '--alarm takes an e-mail address'
[[ $retention =~ ^[0-9]+$ ]] || usage_error '--retention takes days'

# has MODEL: whether it is deployed.
has() { [[ " ${models[*]} " == *" $1 "* ]]; }
[[ -z $queue$vpc_endpoint ]] || has embedded ||
  usage_error '--rotation-queue and --vpc-endpoint are for the embedded model'

registry=${AWSACCOUNT:-}.dkr.ecr.${REGION:-}.amazonaws.com
declare -A secret_arns=() images=() task_definitions=()
queue_url=''

# --- Before anything is made -----------------------------------------------------------------------

container_tool() {
  local tool
  for tool in docker podman buildah; do
    command -v "$tool" >/dev/null && printf '%s' "$tool" && return
  done
  die 'not installed: docker, podman or buildah' 'nothing was done'
}

check_first() {
  need_tools aws jq
  need_variables AWSACCOUNT REGION SUBNET1 SUBNET2 SECURITYGROUP
  if [[ $build ]]; then tool=$(container_tool); fi
  if [[ $build && $tool == docker ]] && ! docker info >/dev/null 2>&1; then
    die 'docker is installed, and its daemon does not answer' 'start it, or use --skip-build' 'nothing was done'
  fi
  need_account
  check_secrets
  check_network
  check_roles
}

check_secrets() {
  local name missing=()
  for name in "${SECRETS[@]}"; do
    if ! secret_of "$name"; then
      missing+=("$name is not there")
    elif jq -e .DeletedDate <<<"$answer" >/dev/null; then
      missing+=("$name is scheduled for deletion")
    elif [[ -z $(version_with AWSCURRENT) ]]; then
      missing+=("$name has no value")
    fi
    secret_arns[$name]=$(jq -r '.ARN // ""' <<<"${answer:-null}")
  done
  ((${#missing[@]} == 0)) || die "secrets in $REGION:" "${missing[@]}" \
    'create them with scripts/secrets.sh' 'nothing was done'
}

check_network() {
  local vpcs
  seek 'InvalidSubnetID|InvalidSubnetId' ec2 describe-subnets --subnet-ids "$SUBNET1" "$SUBNET2" ||
    die "SUBNET1 or SUBNET2 is not in $REGION" 'nothing was done'
  vpcs=$(jq -r '.Subnets[].VpcId' <<<"$answer" | sort -u)
  seek 'InvalidGroup' ec2 describe-security-groups --group-ids "$SECURITYGROUP" ||
    die "SECURITYGROUP is not in $REGION" 'nothing was done'
  [[ $vpcs == "$(jq -r '.SecurityGroups[].VpcId' <<<"$answer")" ]] ||
    die 'SUBNET1, SUBNET2 and SECURITYGROUP are not of one VPC' 'nothing was done'
}

# A role of that name that somebody else has made is not given our policies.
check_roles() {
  local model role
  for model in "${models[@]}"; do
    for role in "twitterstream-$model-task-role" "twitterstream-$model-task-execution-role"; do
      if seek NoSuchEntity iam get-role --role-name "$role" && ! ours .Role.Tags; then
        die "there is a role $role that bringup.sh has not made" 'rename or delete it' 'nothing was done'
      fi
    done
  done
}

# --- What is made ----------------------------------------------------------------------------------

# exists WHAT: says that something is used that was there before.
exists() { say "$1 is there"; }

make_repository() {
  if seek RepositoryNotFoundException ecr describe-repositories --repository-names "$REPOSITORY"; then
    exists "the repository $REPOSITORY"
  else
    change "create the repository $REPOSITORY" ecr create-repository --repository-name "$REPOSITORY" \
      --image-scanning-configuration scanOnPush=true --tags "Key=$TAG_KEY,Value=$TAG_VALUE"
  fi
}

# run_tool WHAT COMMAND...: a step of docker's, whose output is shown.
run_tool() {
  local what=$1
  shift
  if [[ $dry_run ]]; then
    say "would $what"
    return
  fi
  say "$what"
  "$@" || die "failed: $what" 'see above; run the same command again'
}

log_in() { aws ecr get-login-password | "$tool" login --username AWS --password-stdin "$registry"; }

# The task definition names the image by its digest, so that a roll-back finds the one it was.
make_images() {
  local model target reference
  if [[ $build ]]; then run_tool "log in to $registry" log_in; fi
  for model in "${models[@]}"; do
    reference=$registry/$REPOSITORY:$model
    if [[ $build ]]; then
      if [[ $model == embedded ]]; then target=worker; else target=injected; fi
      run_tool "build the image of the $model model" \
        "$tool" build --platform "$platform" --target "$target" --tag "$reference" \
        --build-arg "GIT_COMMIT=$(git -C "$root" describe --always --dirty --exclude '*' 2>/dev/null || true)" "$root"
      run_tool "push $reference" "$tool" push "$reference"
    fi
    if seek 'ImageNotFoundException|RepositoryNotFoundException' ecr describe-images \
      --repository-name "$REPOSITORY" --image-ids "imageTag=$model"; then
      images[$model]=$registry/$REPOSITORY@$(jq -r '.imageDetails[0].imageDigest' <<<"$answer")
    elif [[ $dry_run ]]; then
      images[$model]=$reference
    else
      die "the repository has no image $model" 'run it without --skip-build'
    fi
  done
}

make_table() {
  if seek ResourceNotFoundException dynamodb describe-table --table-name "$TABLE"; then
    jq -e '[.Table.KeySchema[] | .AttributeName + .KeyType] == ["userHASH", "dateRANGE"]' \
      <<<"$answer" >/dev/null ||
      die "the table $TABLE has another key than user (HASH) and date (RANGE)" 'move it out of the way'
    exists "the table $TABLE"
  else
    change "create the table $TABLE" dynamodb create-table --table-name "$TABLE" \
      --attribute-definitions AttributeName=user,AttributeType=S AttributeName=date,AttributeType=S \
      --key-schema AttributeName=user,KeyType=HASH AttributeName=date,KeyType=RANGE \
      --billing-mode PAY_PER_REQUEST --tags "Key=$TAG_KEY,Value=$TAG_VALUE"
  fi
  [[ $dry_run ]] || seek '' dynamodb wait table-exists --table-name "$TABLE"
}

make_log_group() {
  local found
  seek '' logs describe-log-groups --log-group-name-prefix "$LOG_GROUP"
  found=$(jq --arg name "$LOG_GROUP" '[.logGroups[] | select(.logGroupName == $name)]' <<<"$answer")
  if [[ $found == '[]' ]]; then
    change "create the log group $LOG_GROUP" logs create-log-group --log-group-name "$LOG_GROUP" \
      --tags "$TAG_KEY=$TAG_VALUE"
  else
    exists "the log group $LOG_GROUP"
  fi
  # Of a log group that was there before nothing is changed.
  if jq -e --argjson days "$retention" '.[0].retentionInDays == $days' <<<"$found" >/dev/null; then return; fi
  if [[ $found != '[]' ]]; then
    seek '' logs list-tags-for-resource --resource-arn "$(jq -r '.[0].arn | rtrimstr(":*")' <<<"$found")"
    ours .tags || return 0
  fi
  change "keep the log for $retention days" logs put-retention-policy \
    --log-group-name "$LOG_GROUP" --retention-in-days "$retention"
}

# make_role ROLE POLICY...: a role that ECS's tasks may take, with these files of iam/ as its policies.
make_role() {
  local role=$1 policy document
  shift
  document=$(filled_in iam/trust-policy.json)
  if ! seek NoSuchEntity iam get-role --role-name "$role"; then
    change "create the role $role" iam create-role --role-name "$role" \
      --assume-role-policy-document "$document" --tags "Key=$TAG_KEY,Value=$TAG_VALUE"
  elif same "$document" .Role.AssumeRolePolicyDocument; then
    exists "the role $role"
  else
    change "renew whom the role $role trusts" iam update-assume-role-policy --role-name "$role" \
      --policy-document "$document"
  fi
  for policy in "$@"; do
    document=$(filled_in "iam/$policy.json")
    if seek NoSuchEntity iam get-role-policy --role-name "$role" --policy-name "$policy" &&
      same "$document" .PolicyDocument; then
      exists "its policy $policy"
    else
      change "put its policy $policy" iam put-role-policy --role-name "$role" --policy-name "$policy" \
        --policy-document "$document"
    fi
  done
}

# same DOCUMENT FILTER: whether the document in $answer is this one. Some services keep it as a string.
same() {
  jq -e --argjson wanted "$1" "$2 | (if type == \"string\" then (fromjson? // .) else . end) == \$wanted" \
    <<<"${answer:-null}" >/dev/null
}

make_roles() {
  local model task execution
  for model in "${models[@]}"; do
    task=("task-role-$model") execution=("task-execution-role-$model")
    if [[ $customer_key && $model == embedded ]]; then task+=(role-customer-key); fi
    if [[ $customer_key && $model == injected ]]; then execution+=(role-customer-key); fi
    if [[ $queue && $model == embedded ]]; then task+=(task-role-rotation-queue); fi
    make_role "twitterstream-$model-task-role" "${task[@]}"
    make_role "twitterstream-$model-task-execution-role" "${execution[@]}"
  done
}

# make_rule NAME PATTERN STATE TARGET-ARN
make_rule() {
  local name=$1 pattern=$2 state=$3 target=$4 tags=()
  if seek ResourceNotFoundException events describe-rule --name "$name" &&
    same "$pattern" .EventPattern && [[ $(jq -r .State <<<"$answer") == "$state" ]]; then
    exists "the rule $name"
  else
    # They are taken at the creation only.
    if [[ -z $answer ]]; then tags=(--tags "Key=$TAG_KEY,Value=$TAG_VALUE"); fi
    change "put the rule $name" events put-rule --name "$name" --event-pattern "$pattern" \
      --state "$state" "${tags[@]}"
  fi
  if seek ResourceNotFoundException events list-targets-by-rule --rule "$name" &&
    jq -e --arg arn "$target" 'any(.Targets[]; .Arn == $arn)' <<<"$answer" >/dev/null; then
    exists 'its target'
  else
    change "aim it at $target" events put-targets --rule "$name" --targets "Id=$name,Arn=$target"
  fi
}

make_queue() {
  local policy pattern
  [[ $queue ]] || return 0
  if seek 'NonExistentQueue|QueueDoesNotExist' sqs get-queue-url --queue-name "$QUEUE"; then
    exists "the queue $QUEUE"
  else
    change "create the queue $QUEUE" sqs create-queue --queue-name "$QUEUE" --tags "$TAG_KEY=$TAG_VALUE" \
      --attributes SqsManagedSseEnabled=true,MessageRetentionPeriod=3600
  fi
  queue_url=$(jq -r .QueueUrl <<<"${answer:-null}")
  if [[ $dry_run && $queue_url == null ]]; then queue_url=https://sqs.$REGION.amazonaws.com/$AWSACCOUNT/$QUEUE; fi
  policy=$(filled_in iam/rotation-queue-policy.json)
  if seek 'NonExistentQueue|QueueDoesNotExist' sqs get-queue-attributes --queue-url "$queue_url" \
    --attribute-names Policy && same "$policy" .Attributes.Policy; then
    exists 'its policy'
  else
    change 'let the rule send to it' sqs set-queue-attributes --queue-url "$queue_url" \
      --attributes "$(jq -n --arg policy "$policy" '{Policy: $policy}')"
  fi
  pattern=$(jq -n '{source: ["aws.secretsmanager"], "detail-type": ["Secret Label Updated"],
    resources: $ARGS.positional}' --args "${secret_arns[@]}")
  make_rule "$QUEUE" "$pattern" ENABLED "arn:aws:sqs:$REGION:$AWSACCOUNT:$QUEUE"
}

# Reading is a management event that EventBridge hands on to rules of this state only. It takes a
# trail of CloudTrail in the region.
make_alarm() {
  local topic=arn:aws:sns:$REGION:$AWSACCOUNT:$ALARM policy pattern
  [[ $alarm ]] || return 0
  if seek NotFound sns get-topic-attributes --topic-arn "$topic"; then
    exists "the topic $ALARM"
  else
    change "create the topic $ALARM" sns create-topic --name "$ALARM" --tags "Key=$TAG_KEY,Value=$TAG_VALUE"
  fi
  policy=$(filled_in iam/alarm-topic-policy.json)
  if seek NotFound sns get-topic-attributes --topic-arn "$topic" && same "$policy" .Attributes.Policy; then
    exists 'its policy'
  else
    change 'let the rule publish to it' sns set-topic-attributes --topic-arn "$topic" \
      --attribute-name Policy --attribute-value "$policy"
  fi
  pattern=$(filled_in scripts/alarm-pattern.json)
  make_rule "$ALARM" "$pattern" ENABLED_WITH_ALL_CLOUDTRAIL_MANAGEMENT_EVENTS "$topic"
  if seek NotFound sns list-subscriptions-by-topic --topic-arn "$topic" &&
    jq -e --arg email "$alarm" 'any(.Subscriptions[]; .Endpoint == $email)' <<<"$answer" >/dev/null; then
    exists "its subscription for $alarm"
  else
    change "subscribe $alarm, who must answer the mail that AWS sends" sns subscribe --topic-arn "$topic" \
      --protocol email --notification-endpoint "$alarm"
  fi
}

bind_secrets_to_the_endpoint() {
  local name policy
  [[ $vpc_endpoint ]] || return 0
  policy=$(filled_in iam/secret-resource-policy.json)
  for name in "${SECRETS[@]}"; do
    seek '' secretsmanager get-resource-policy --secret-id "$name"
    if same "$policy" .ResourcePolicy; then
      exists "the endpoint's policy of $name"
    elif jq -e '(.ResourcePolicy // "") != "" and
      ([.ResourcePolicy | fromjson | .Statement[].Sid] != ["OnlyThroughTheEndpoint"])' \
      <<<"$answer" >/dev/null; then
      die "$name has a resource policy of its own" 'add the statement of iam/secret-resource-policy.json to it'
    else
      change "bind $name to $vpc_endpoint" secretsmanager put-resource-policy --secret-id "$name" \
        --resource-policy "$policy" --block-public-policy
    fi
  done
}

make_cluster() {
  seek '' ecs describe-clusters --clusters "$CLUSTER"
  if jq -e 'any(.clusters[]; .status == "ACTIVE")' <<<"$answer" >/dev/null; then
    exists "the cluster $CLUSTER"
  else
    change "create the cluster $CLUSTER" ecs create-cluster --cluster-name "$CLUSTER" \
      --tags "key=$TAG_KEY,value=$TAG_VALUE"
  fi
}

# definition_of MODEL: the file of task-definition/ as it is registered.
definition_of() {
  local arns variables
  arns=$(for name in "${SECRETS[@]}"; do
    jq -n --arg name "$name" --arg arn "${secret_arns[$name]}" '{($name): $arn}'
  done | jq -s add)
  variables=$( (
    [[ $1 != embedded || -z $queue ]] || jq -n --arg url "$queue_url" '{ROTATION_QUEUE_URL: $url}'
    for pair in "${environment[@]}"; do
      jq -n --arg name "${pair%%=*}" --arg value "${pair#*=}" '{($name): $value}'
    done
  ) | jq -s 'add // {}')
  filled_in "task-definition/$1.json" | jq --arg image "${images[$1]}" --arg architecture "$architecture" \
    --argjson arns "$arns" --argjson variables "$variables" '
    .runtimePlatform.cpuArchitecture = $architecture
    | .containerDefinitions[0] |= (
        .image = $image
        | if .secrets then .secrets[] |= (.valueFrom = $arns[.name]) else . end
        | .environment = ((.environment | map({(.name): .value}) | add) + $variables
            | to_entries | map({name: .key, value})))'
}

# A revision is registered when it would differ from the last one, which its tag tells.
make_task_definition() {
  local model family definition hash
  for model in "${models[@]}"; do
    family=twitterstream-$model
    definition=$(definition_of "$model")
    hash=$(jq -cS . <<<"$definition" | sha256sum | cut -c 1-64)
    if seek 'Unable to describe task definition' ecs describe-task-definition --task-definition "$family" \
      --include TAGS && jq -e --arg hash "$hash" 'any(.tags[]; .key == "sha256" and .value == $hash)' \
      <<<"$answer" >/dev/null; then
      exists "the task definition $family"
    else
      jq --arg key "$TAG_KEY" --arg value "$TAG_VALUE" --arg hash "$hash" \
        '.tags = [{key: $key, value: $value}, {key: "sha256", value: $hash}]' \
        <<<"$definition" >"$scratch/$family.json"
      change "register the task definition $family" ecs register-task-definition \
        --cli-input-json "file://$scratch/$family.json"
    fi
    task_definitions[$model]=$(jq -r '.taskDefinition.taskDefinitionArn' <<<"${answer:-null}")
  done
}

network() {
  jq -n --arg one "$SUBNET1" --arg two "$SUBNET2" --arg group "$SECURITYGROUP" --arg public "$public_ip" \
    '{awsvpcConfiguration: {subnets: [$one, $two], securityGroups: [$group], assignPublicIp: $public}}'
}

# X gives an application one stream. So a deployment ends the old task before it starts the new one,
# which minimumHealthyPercent 0 and maximumPercent 100 say; the other way round they would fight.
make_service() {
  local model=$1 name=twitterstream-$1 definition=${task_definitions[$1]} wanted
  wanted=$(jq -n --arg definition "$definition" --argjson network "$(network)" \
    '{taskDefinition: $definition, desiredCount: 1, networkConfiguration: $network,
      deploymentConfiguration: {minimumHealthyPercent: 0, maximumPercent: 100,
        deploymentCircuitBreaker: {enable: true, rollback: true}}}')
  seek ClusterNotFoundException ecs describe-services --cluster "$CLUSTER" --services "$name" || true
  if jq -e 'any(.services[]; .status == "ACTIVE")' <<<"${answer:-{\}}" >/dev/null 2>&1; then
    if jq -e --argjson wanted "$wanted" '.services[0]
      | .taskDefinition == $wanted.taskDefinition and .desiredCount == 1
        and ((.networkConfiguration // .deployments[0].networkConfiguration).awsvpcConfiguration
          | .subnets |= sort) == ($wanted.networkConfiguration.awsvpcConfiguration | .subnets |= sort)' \
      <<<"$answer" >/dev/null; then
      exists "the service $name"
      return
    fi
    jq --arg cluster "$CLUSTER" --arg name "$name" '. + {cluster: $cluster, service: $name}' \
      <<<"$wanted" >"$scratch/service.json"
    change "update the service $name" ecs update-service --cli-input-json "file://$scratch/service.json"
  else
    jq --arg cluster "$CLUSTER" --arg name "$name" --arg key "$TAG_KEY" --arg value "$TAG_VALUE" \
      '. + {cluster: $cluster, serviceName: $name, launchType: "FARGATE", propagateTags: "SERVICE",
        tags: [{key: $key, value: $value}]}' <<<"$wanted" >"$scratch/service.json"
    change "create the service $name" ecs create-service --cli-input-json "file://$scratch/service.json"
  fi
}

start_task() {
  local family=twitterstream-$1
  seek ClusterNotFoundException ecs list-tasks --cluster "$CLUSTER" --family "$family" --desired-status RUNNING || true
  if jq -e '.taskArns[0]' <<<"${answer:-null}" >/dev/null; then
    exists "a task of $family"
    return
  fi
  change "start a task of $family" ecs run-task --cluster "$CLUSTER" --launch-type FARGATE \
    --task-definition "${task_definitions[$1]}" --network-configuration "$(network)" \
    --started-by bringup.sh --tags "key=$TAG_KEY,value=$TAG_VALUE"
  [[ $dry_run ]] || jq -e '.failures == []' <<<"$answer" >/dev/null ||
    die "the task was not started: $(jq -r '[.failures[].reason] | join(", ")' <<<"$answer")"
}

# tasks FAMILY STATUS: the tasks' descriptions into $answer.
tasks() {
  seek '' ecs list-tasks --cluster "$CLUSTER" --family "$1" --desired-status "$2"
  local arns
  mapfile -t arns < <(jq -r '.taskArns[]' <<<"$answer")
  if ((${#arns[@]} == 0)); then
    answer='{"tasks": []}'
  else
    seek '' ecs describe-tasks --cluster "$CLUSTER" --tasks "${arns[@]}"
  fi
}

wait_until_running() {
  local family=twitterstream-$1 definition=${task_definitions[$1]} try task
  [[ $dry_run ]] && return
  say "waiting for a task of $family"
  for ((try = 0; try < ${WAIT_TRIES:-120}; try++)); do
    tasks "$family" RUNNING
    # It is healthy once the worker has proven credentials, table and feed.
    task=$(jq -r --arg definition "$definition" '[.tasks[] | select(.lastStatus == "RUNNING"
      and (.healthStatus // "HEALTHY") == "HEALTHY"
      and .taskDefinitionArn == $definition)][0].taskArn // ""' <<<"$answer")
    if [[ $task ]]; then
      say "running: $task"
      say "its log: log group $LOG_GROUP, stream twitterstream/twitterstream/${task##*/}"
      say "  aws logs get-log-events --region $REGION --log-group-name $LOG_GROUP \\"
      say "    --log-stream-name twitterstream/twitterstream/${task##*/} --query 'events[].message' --output text"
      return
    fi
    sleep "${WAIT_SECONDS:-5}"
  done
  tasks "$family" STOPPED
  die "no task of $family is running and healthy yet" \
    "why the last one ended: $(jq -r '[.tasks[] | .stoppedReason, (.containers[] | .reason,
      (.exitCode | values | "exit code \(.)"))] | map(values) | if . == [] then "none has ended" else join("; ") end' <<<"$answer")" \
    "see also: aws ecs describe-services --region $REGION --cluster $CLUSTER --services $family" \
    'what was made so far stays; run the same command again, or run teardown.sh'
}

check_first
make_repository
make_images
make_table
make_log_group
make_roles
make_queue
make_alarm
bind_secrets_to_the_endpoint
make_cluster
make_task_definition
if ((${#models[@]} == 2)); then
  say 'both models hold the same keys, and X gives them one stream: the task that comes second waits for it'
fi
for model in "${models[@]}"; do
  if [[ $service ]]; then make_service "$model"; else start_task "$model"; fi
done
for model in "${models[@]}"; do wait_until_running "$model"; done
