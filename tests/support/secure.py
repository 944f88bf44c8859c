"""A Kafka that asks for TLS and for who is there, with certificates made for the occasion."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from kafka import KafkaAdminClient
from kafka.admin import ScramMechanism, UserScramCredentialUpsertion

from tests.support.servers import Kafka, free_port

USER = "tidegauge-tests"
PASSWORD = "made-up password, with an \u00e9 and a ="


_NEW_KEY = "-newkey rsa:2048 -nodes"


class Authority:
    """A certificate authority in a folder, by the ``openssl`` command; names are those of files."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._name = name
        self.certificate = directory / f"{name}.crt"
        self._openssl(f"req -x509 {_NEW_KEY} -keyout {name}.key -out {name}.crt -days 2 -subj /CN={name}")

    def issue(self, name: str, hosts: str = "") -> tuple[Path, Path]:
        """Make a key and a certificate for ``hosts``, such as ``IP:127.0.0.1``; returns both files."""
        extensions = self._directory / f"{name}.ext"
        extensions.write_text(f"subjectAltName={hosts}\n" if hosts else "")
        self._openssl(f"req {_NEW_KEY} -keyout {name}.key -out {name}.csr -subj /CN={name}")
        self._openssl(
            f"x509 -req -in {name}.csr -CA {self._name}.crt -CAkey {self._name}.key -CAcreateserial"
            f" -days 2 -extfile {name}.ext -out {name}.crt"
        )
        return self._directory / f"{name}.key", self._directory / f"{name}.crt"

    def _openssl(self, arguments: str) -> None:
        subprocess.run(
            ["openssl", *arguments.split()],
            cwd=self._directory,
            check=True,
            capture_output=True,
            timeout=30,
        )


class SecureKafka(Kafka):
    """A Kafka with two more listeners: SASL over TLS, and TLS with certificates on both sides.

    Its certificate is for 127.0.0.1 and no other name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sasl_port, self.tls_port = free_port(), free_port()
        self.authority = Authority(self.data, "authority")
        self.key, self.certificate = self.authority.issue("client")
        key, certificate = self.authority.issue("broker", "IP:127.0.0.1")
        both = self.data / "broker.pem"
        both.write_text(key.read_text() + certificate.read_text())
        module = "org.apache.kafka.common.security"
        tls = f"ssl.keystore.type=PEM\nssl.keystore.location={both}\nssl.truststore.type=PEM\n"
        tls += f"ssl.truststore.location={self.authority.certificate}\n"
        quoted = json.dumps(PASSWORD)[1:-1]  # properties files are Latin-1
        more = f"""
listeners=PLAINTEXT://127.0.0.1:{self.port},SASL_SSL://127.0.0.1:{self.sasl_port},\
SSL://127.0.0.1:{self.tls_port},CONTROLLER://127.0.0.1:{self._environment["KAFKA_CONTROLLER_PORT"]}
advertised.listeners=PLAINTEXT://127.0.0.1:{self.port},SASL_SSL://127.0.0.1:{self.sasl_port},\
SSL://127.0.0.1:{self.tls_port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL,CONTROLLER:PLAINTEXT
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.ssl.ssl.client.auth=required
listener.name.sasl_ssl.plain.sasl.jaas.config={module}.plain.PlainLoginModule required user_{USER}="{quoted}";
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config={module}.scram.ScramLoginModule required;
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={module}.scram.ScramLoginModule required;
{tls}"""
        self._environment["KAFKA_PROPERTIES"] += more

    def start(self, timeout: float = 60.0) -> None:
        """Start it, with the user known to it."""
        super().start(timeout)
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap_servers)
        try:
            # One by one: Kafka refuses a request that names a user twice.
            for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
                told = admin.alter_user_scram_credentials(
                    [UserScramCredentialUpsertion(USER, mechanism, PASSWORD)]
                )
                assert told == {USER: None}, told
        finally:
            admin.close()

    def settings(self, mechanism: str = "") -> dict[str, str]:
        """Environment variables of a client: with a password by ``mechanism``, else with a certificate."""
        common = {"TIDEGAUGE_KAFKA_SSL_CAFILE": str(self.authority.certificate)}
        if mechanism:
            return common | {
                "TIDEGAUGE_KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{self.sasl_port}",
                "TIDEGAUGE_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
                "TIDEGAUGE_KAFKA_SASL_MECHANISM": mechanism,
                "TIDEGAUGE_KAFKA_SASL_USERNAME": USER,
                "TIDEGAUGE_KAFKA_SASL_PASSWORD": PASSWORD,
            }
        return common | {
            "TIDEGAUGE_KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{self.tls_port}",
            "TIDEGAUGE_KAFKA_SECURITY_PROTOCOL": "SSL",
            "TIDEGAUGE_KAFKA_SSL_CERTFILE": str(self.certificate),
            "TIDEGAUGE_KAFKA_SSL_KEYFILE": str(self.key),
        }
