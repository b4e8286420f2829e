"""
A PKCS#11 library in Python with a failing mode, in place of `api.Functions`: sessions, login state, keys.

`fail` makes the next calls of one function return given codes before they take effect; `away` is a token
that was unplugged. `calls` counts what was called. Keys are pyca's, and every C_Sign is remembered.
"""

from __future__ import annotations

import collections
import ctypes
import threading

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

from chancery.asn1 import der
from chancery.asn1.signature import ml_dsa_kind
from chancery.pkcs11 import api
from chancery.pkcs11.api import Attribute, CryptokiError, KeyType, Mechanism, Return, TokenFlag
from chancery.pkcs11.module import Module
from chancery.pkcs11.token import Token

LABEL, PIN = "fake", b"1234"
ALL_MECHANISMS = frozenset(Mechanism)
CURVES = {"secp256r1": "1.2.840.10045.3.1.7", "secp384r1": "1.3.132.0.34", "secp521r1": "1.3.132.0.35"}
P256 = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
ED25519 = ed25519.Ed25519PrivateKey.generate()


class FakeHSM:
    """Everything `Module` and `Token` call."""

    def __init__(self, mechanisms=ALL_MECHANISMS):
        self.mechanisms = set(mechanisms)
        self.refused_mechanisms = set()
        self.flags = TokenFlag.USER_PIN_INITIALIZED
        self.max_sessions = 0
        self.away = False
        self.pin = PIN
        self.calls = collections.Counter()
        self.failures = collections.defaultdict(collections.deque)
        self.objects = {}
        self.sessions = {}
        self.most_sessions = 0
        self.logged_in = False
        self.initialized = False
        self.next_handle = 100
        self.signed = []
        self.hold = None
        self.lock = threading.RLock()

    def fail(self, name, *codes):
        self.failures[name].extend(codes)

    # What api.Functions offers

    def call(self, name, *arguments):
        if code := self.run(name, *arguments):
            raise CryptokiError(f"C_{name}", code)

    def finalize(self):
        self.run("Finalize")

    def ulongs(self, name, *_):
        with self.lock:
            if code := self._refusal(name):
                raise CryptokiError(f"C_{name}", code)
            return [1] if name == "GetSlotList" else sorted(self.mechanisms)

    def sign_init(self, *arguments):
        return self.run("SignInit", *arguments)

    def sign(self, *arguments):
        if self.hold is not None:
            self.hold.wait(30)
        return self.run("Sign", *arguments)

    def run(self, name, *arguments):
        with self.lock:
            if (code := self._refusal(name)) is not None:
                return code
            return int(getattr(self, f"_{name.lower()}")(*arguments) or 0)

    def _refusal(self, name):
        self.calls[name] += 1
        if self.failures[name]:
            return int(self.failures[name].popleft())
        if not self.initialized and name != "Initialize":
            return int(Return.CRYPTOKI_NOT_INITIALIZED)
        if self.away and name not in {"Initialize", "Finalize", "GetSlotList", "CloseSession"}:
            return int(Return.DEVICE_REMOVED)
        return None

    # The functions

    def _initialize(self, _):
        self.initialized = True

    def _finalize(self):
        self.initialized = self.logged_in = False
        self.sessions.clear()

    def unplug(self):
        """Lose every session and the login; handles of before mean nothing afterwards."""
        self.sessions.clear()
        self.logged_in = False
        self.away = True

    def plug_in(self):
        self.away = False
        self.objects = {handle + 1000: found for handle, found in self.objects.items()}

    def _getinfo(self, info):
        info._obj.manufacturer = b"Fake".ljust(32)

    def _gettokeninfo(self, _, pointer):
        info = pointer._obj
        info.label = LABEL.encode().ljust(32)
        info.flags = int(self.flags) | api.CKF_TOKEN_INITIALIZED
        info.max_session_count = self.max_sessions

    def _opensession(self, _slot, _flags, _a, _b, handle):
        if self.max_sessions and len(self.sessions) >= self.max_sessions:
            return Return.SESSION_COUNT
        self.next_handle += 1
        self.sessions[self.next_handle] = {}
        self.most_sessions = max(self.most_sessions, len(self.sessions))
        handle._obj.value = self.next_handle
        return Return.OK

    def _closesession(self, session):
        self.sessions.pop(session, None)
        self.logged_in = self.logged_in and bool(self.sessions)

    def _getsessioninfo(self, session, info):
        if session not in self.sessions:
            return Return.SESSION_HANDLE_INVALID
        info._obj.state = 1 if self.logged_in else 0
        return Return.OK

    def _login(self, session, _user, pin, length):
        if session not in self.sessions:
            return Return.SESSION_HANDLE_INVALID
        if self.logged_in:
            return Return.USER_ALREADY_LOGGED_IN
        if pin.raw[:length] != self.pin:
            return Return.PIN_INCORRECT
        self.logged_in = True
        return Return.OK

    def add(self, label, key, *, bare_point=False, public_half=True, exponent_on_private=True, **attributes):
        """Put a key pair in; returns the private handle."""
        identifier = {Attribute.LABEL: label.encode(), Attribute.ID: label.encode()}
        private = identifier | {
            Attribute.CLASS: ctypes.c_ulong(api.CKO_PRIVATE_KEY),
            Attribute.SENSITIVE: b"\1",
            Attribute.EXTRACTABLE: b"\0",
        }
        public = identifier | {Attribute.CLASS: ctypes.c_ulong(api.CKO_PUBLIC_KEY)}
        if isinstance(key, rsa.RSAPrivateKey):
            numbers = key.public_key().public_numbers()
            private[Attribute.KEY_TYPE] = ctypes.c_ulong(KeyType.RSA)
            private[Attribute.MODULUS] = numbers.n.to_bytes(256, "big")
            (private if exponent_on_private else public)[Attribute.PUBLIC_EXPONENT] = b"\1\0\1"
        elif (kind := ml_dsa_kind(key)) is not None:
            private[Attribute.KEY_TYPE] = ctypes.c_ulong(KeyType.ML_DSA)
            private[Attribute.PARAMETER_SET] = ctypes.c_ulong(api.ML_DSA_PARAMETER_SETS[kind])
            public[Attribute.VALUE] = key.public_key().public_bytes_raw()
        else:
            point = _point(key.public_key())
            edwards = isinstance(key, ed25519.Ed25519PrivateKey)
            private[Attribute.KEY_TYPE] = ctypes.c_ulong(KeyType.EC_EDWARDS if edwards else KeyType.EC)
            private[Attribute.EC_PARAMS] = der.oid("1.3.101.112" if edwards else CURVES[key.curve.name])
            public[Attribute.EC_POINT] = point if bare_point else der.octet_string(point)
        private |= {Attribute[name]: value for name, value in attributes.items()}
        if public_half:
            self.next_handle += 1
            self.objects[self.next_handle] = (None, public)
        self.next_handle += 1
        self.objects[self.next_handle] = (key, private)
        return self.next_handle

    def _findobjectsinit(self, session, template, count):
        if session not in self.sessions:
            return Return.SESSION_HANDLE_INVALID
        wanted = {entry.type: ctypes.string_at(entry.value, entry.length) for entry in template[:count]}
        self.sessions[session]["found"] = [
            handle
            for handle, (key, attributes) in self.objects.items()
            if (self.logged_in or key is None)
            and all(bytes(attributes.get(kind, b"absent")) == value for kind, value in wanted.items())
        ]
        return Return.OK

    def _findobjects(self, session, chunk, size, count):
        found = self.sessions[session]["found"][:1]  # one at a time, as a slow token may
        self.sessions[session]["found"] = self.sessions[session]["found"][1:]
        for place, handle in enumerate(found[:size]):
            chunk[place] = handle
        count._obj.value = len(found)

    def _findobjectsfinal(self, _):
        pass

    def _getattributevalue(self, session, handle, pointer, _count):
        if session not in self.sessions:
            return Return.SESSION_HANDLE_INVALID
        if handle not in self.objects:
            return Return.OBJECT_HANDLE_INVALID
        entry = pointer._obj
        if (value := self.objects[handle][1].get(entry.type)) is None:
            return Return.ATTRIBUTE_TYPE_INVALID
        entry.length = len(bytes(value))
        if entry.value:
            ctypes.memmove(entry.value, bytes(value), entry.length)
        return Return.OK

    def _signinit(self, session, mechanism, handle):
        if session not in self.sessions:
            return Return.SESSION_HANDLE_INVALID
        if not self.logged_in:
            return Return.USER_NOT_LOGGED_IN
        if handle not in self.objects:
            return Return.KEY_HANDLE_INVALID
        kind = Mechanism(mechanism._obj.mechanism)
        if kind not in self.mechanisms or kind in self.refused_mechanisms:
            return Return.MECHANISM_INVALID
        self.sessions[session]["signing"] = (kind, mechanism._obj, self.objects[handle][0])
        return Return.OK

    def _sign(self, session, data, length, out, out_length):
        kind, value, key = self.sessions[session].pop("signing")
        self.signed.append(kind)
        signature = _signature(kind, value, key, data[:length])
        ctypes.memmove(out, signature, len(signature))
        out_length._obj.value = len(signature)


def _point(public_key):
    from cryptography.hazmat.primitives import serialization

    if isinstance(public_key, ed25519.Ed25519PublicKey):
        return public_key.public_bytes_raw()
    return public_key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)


def _signature(kind, value, key, data):
    """Sign as a token does; raw mechanisms take a digest, combined ones the message."""
    if kind in {Mechanism.EDDSA, Mechanism.ML_DSA}:
        return key.sign(data)
    sizes = {32: hashes.SHA256(), 48: hashes.SHA384(), 64: hashes.SHA512()}
    combined = next((hash_ for hash_ in sizes.values() if hash_.name.upper() in kind.name), None)
    if kind.name.startswith("ECDSA"):
        algorithm = combined or utils.Prehashed(sizes[len(data)])
        r, s = utils.decode_dss_signature(key.sign(data, ec.ECDSA(algorithm)))
        size = (key.curve.key_size + 7) // 8
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")
    if kind.name.endswith("PSS"):
        parameters = api.PSSParameters.from_address(value.parameter)
        algorithm = combined or utils.Prehashed(sizes[len(data)])
        inner = combined or sizes[len(data)]
        return key.sign(data, padding.PSS(padding.MGF1(inner), parameters.salt_length), algorithm)
    if combined is not None:
        return key.sign(data, padding.PKCS1v15(), combined)
    size = data[18]  # DigestInfo of SHA-2: SEQUENCE, SEQUENCE, OID (9), NULL, OCTET STRING's length
    return key.sign(data[-size:], padding.PKCS1v15(), utils.Prehashed(sizes[size]))


def fake_module(hsm, path) -> Module:
    """A module over a fake library; `path` is any file, for the login lock."""
    path.touch()
    module = Module(str(path), hsm, None)
    module._initialize()
    return module


def fake_token(hsm, path, **changed) -> Token:
    return Token(fake_module(hsm, path), LABEL, changed.pop("pin", lambda: PIN), **changed)
