"""JSON Web Tokens for the tests, made by PyJWT: another implementation than the gateway's."""

import json
import time

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

SECRET = "a secret of the tests that is long enough for HS512: 64 bytes or more"


def private_pem(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def public_pem(key):
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


class Keys:
    """One key per family, and what the gateway must know of them."""

    def __init__(self):
        self.private = {
            "RS": rsa.generate_private_key(65537, 2048),
            "ES256": ec.generate_private_key(ec.SECP256R1()),
            "ES384": ec.generate_private_key(ec.SECP384R1()),
            "EdDSA": ed25519.Ed25519PrivateKey.generate(),
        }

    def signing(self, algorithm):
        if algorithm.startswith("HS"):
            return SECRET
        return self.private.get(algorithm) or self.private[algorithm[:2]]

    def write_pems(self, directory):
        paths = []
        for name, key in self.private.items():
            path = directory / f"{name}.pem"
            path.write_text(public_pem(key))
            paths.append(str(path))
        return paths

    def jwks(self):
        algorithms = {"RS": "RS256", "ES256": "ES256", "ES384": "ES384", "EdDSA": "EdDSA"}
        keys = []
        for name, algorithm in algorithms.items():
            public = self.private[name].public_key()
            made = jwt.get_algorithm_by_name(algorithm).to_jwk(public)
            made = json.loads(made) if isinstance(made, str) else made
            made.pop("key_ops", None)
            keys.append({**made, "kid": f"key-{name}", "use": "sig"})
        return json.dumps({"keys": keys})


def token(user, *, algorithm="HS256", key=SECRET, ttl=60, headers=None, **claims):
    """A token for `user`; a claim given as None is left out."""
    payload = {"sub": user, "exp": None if ttl is None else int(time.time()) + ttl, **claims}
    payload = {name: value for name, value in payload.items() if value is not None}
    return jwt.encode(payload, key, algorithm=algorithm, headers=headers)
