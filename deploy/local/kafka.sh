#!/usr/bin/env bash
# A real Apache Kafka on 127.0.0.1 without Docker: one KRaft node, from the jars of Maven Central.
#
#   kafka.sh install            fetch the jars into the cache (10 s, 54 MB; nothing to do when they are there)
#   kafka.sh check              say what is missing to run it here, if anything (exit code 1)
#   kafka.sh run    DATA PORT   run it in the foreground, in the data folder DATA; also takes PORT + 1
#   kafka.sh start  DATA PORT   run it in the background and wait until it is ready
#   kafka.sh stop   DATA        end it in order
#   kafka.sh kill|pause|resume DATA   SIGKILL, SIGSTOP, SIGCONT
#   kafka.sh wipe   DATA        delete the data of a stopped server
#
# The cache is TIDEGAUGE_CACHE, else .cache in the checkout. Needs Java 17 or newer, and Maven to install.
#   KAFKA_CONTROLLER_PORT   the controller's port instead of PORT + 1
#   KAFKA_PROPERTIES        more lines for server.properties; the last of a key wins
#   KAFKA_HEAP              the JVM's largest heap (1g)
# The settings are for tests and trials on one machine: one replica, quick group joins, no topics by accident.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

readonly kafka_version=4.3.1 log4j_version=2.24.3
readonly home=$cache/kafka-$kafka_version

usage() {
    sed -n '2,16s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

need_java() {
    need java "Java 17 or newer"
    local version
    version=$(java -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p')
    [ "${version:-0}" -ge 17 ] || die "needs Java 17 or newer, found Java ${version:-of an unknown version}"
}

install_kafka() {
    [ ! -e "$home/complete" ] || return 0
    need_java
    need mvn Maven
    rm -rf "$home"
    mkdir -p "$home"
    cat >"$home/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>tidegauge</groupId><artifactId>local-kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$kafka_version</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId>
      <version>$log4j_version</version>
    </dependency>
  </dependencies>
</project>
POM
    echo "fetching Apache Kafka $kafka_version" >&2
    mvn --quiet --batch-mode --strict-checksums --file "$home/pom.xml" \
        dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$home/libs" >&2 ||
        die "Maven could not fetch Apache Kafka $kafka_version"
    [ -e "$home/libs/kafka_2.13-$kafka_version.jar" ] || die "Maven left no kafka_2.13-$kafka_version.jar"
    touch "$home/complete"
}

check_kafka() {
    need_java
    [ -e "$home/complete" ] || {
        need mvn Maven
        die "not installed; run 'make servers'"
    }
}

configure() {
    local controller=${KAFKA_CONTROLLER_PORT:-$((port + 1))}
    cat >"$data/log4j2.properties" <<'LOG'
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
logger.start.name = kafka.server.KafkaRaftServer
logger.start.level = info
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d %p %c: %m%n
LOG
    cat >"$data/server.properties" <<CONF
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAINTEXT://127.0.0.1:$port
controller.listener.names=CONTROLLER
log.dirs=$data/logs
num.partitions=1
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
${KAFKA_PROPERTIES:-}
CONF
}

run_kafka() {
    check_kafka
    become_server
    configure
    local jvm=(java -Xms256m -Xmx"${KAFKA_HEAP:-1g}" -XX:+UseG1GC -Djava.awt.headless=true
        -Dlog4j2.configurationFile="$data/log4j2.properties" -cp "$home/libs/*")
    if [ ! -e "$data/logs/meta.properties" ]; then
        local id
        id=$(head -c 16 /dev/urandom | base64 | tr '+/' 'AB')
        "${jvm[@]}" kafka.tools.StorageTool format --cluster-id "${id%==}" --config "$data/server.properties"
    fi
    exec "${jvm[@]}" kafka.Kafka "$data/server.properties"
}

is_ready() {
    grep -q 'Kafka Server started' "$data/log"
}

start_kafka() {
    start_server is_ready 60
    echo "Apache Kafka $kafka_version on 127.0.0.1:$port, process id $(cat "$data/pid")"
}

command=${1:-}
case "$command" in
install)
    with_lock "$cache/kafka.lock" install_kafka
    echo "installed $home"
    ;;
check) check_kafka ;;
run | start)
    use_data "${2:-}"
    use_port "${3:-}"
    "${command}_kafka"
    ;;
stop | kill | pause | resume | wipe)
    use_data "${2:-}"
    case "$command" in
    stop) stop_server TERM 30 ;;
    kill) kill_server ;;
    pause) signal STOP ;;
    resume) signal CONT ;;
    wipe) wipe_server ;;
    esac
    ;;
*) usage ;;
esac
