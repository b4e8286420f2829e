"""
The part of the PKCS#11 2.40 C interface that Chancery uses: structures, constants, functions.

Constants of 3.2 are values that a module may know; they need no newer function.

Functions are taken from `C_GetFunctionList`, the only symbol a module must export, and called through
`ctypes.CFUNCTYPE`, which releases the GIL for as long as the token works.
"""

from __future__ import annotations

import ctypes
import enum
from typing import Any

CKF_OS_LOCKING_OK = 0x2
CKF_RW_SESSION, CKF_SERIAL_SESSION = 0x2, 0x4
CKF_TOKEN_INITIALIZED = 0x400
CKU_SO, CKU_USER = 0, 1
CKO_PUBLIC_KEY, CKO_PRIVATE_KEY = 2, 3
CKS_USER_FUNCTIONS = frozenset({1, 3})  # CKS_RO_USER_FUNCTIONS, CKS_RW_USER_FUNCTIONS
CK_UNAVAILABLE_INFORMATION = ctypes.c_ulong(-1).value


class TokenFlag(enum.IntFlag):
    """CKF_… flags of CK_TOKEN_INFO that say how the user PIN stands."""

    USER_PIN_INITIALIZED = 0x8
    USER_PIN_COUNT_LOW = 0x10000
    USER_PIN_FINAL_TRY = 0x20000
    USER_PIN_LOCKED = 0x40000
    USER_PIN_TO_BE_CHANGED = 0x80000


class KeyType(enum.IntEnum):
    RSA = 0x00
    EC = 0x03
    EC_EDWARDS = 0x40
    ML_DSA = 0x4A  # PKCS#11 3.2


class Attribute(enum.IntEnum):
    CLASS = 0x000
    TOKEN = 0x001
    PRIVATE = 0x002
    LABEL = 0x003
    VALUE = 0x011
    KEY_TYPE = 0x100
    ID = 0x102
    SENSITIVE = 0x103
    DECRYPT = 0x105
    UNWRAP = 0x107
    SIGN = 0x108
    VERIFY = 0x10A
    DERIVE = 0x10C
    MODULUS = 0x120
    MODULUS_BITS = 0x121
    PUBLIC_EXPONENT = 0x122
    PRIVATE_EXPONENT = 0x123
    PRIME_1 = 0x124
    PRIME_2 = 0x125
    EXPONENT_1 = 0x126
    EXPONENT_2 = 0x127
    COEFFICIENT = 0x128
    EXTRACTABLE = 0x162
    EC_PARAMS = 0x180
    EC_POINT = 0x181
    PARAMETER_SET = 0x61D  # PKCS#11 3.2


class Mechanism(enum.IntEnum):
    RSA_PKCS_KEY_PAIR_GEN = 0x0000
    RSA_PKCS = 0x0001
    RSA_PKCS_PSS = 0x000D
    ML_DSA_KEY_PAIR_GEN = 0x001C  # PKCS#11 3.2
    ML_DSA = 0x001D  # PKCS#11 3.2
    SHA256_RSA_PKCS = 0x0040
    SHA384_RSA_PKCS = 0x0041
    SHA512_RSA_PKCS = 0x0042
    SHA256_RSA_PKCS_PSS = 0x0043
    SHA384_RSA_PKCS_PSS = 0x0044
    SHA512_RSA_PKCS_PSS = 0x0045
    SHA256 = 0x0250
    SHA384 = 0x0260
    SHA512 = 0x0270
    EC_KEY_PAIR_GEN = 0x1040
    ECDSA = 0x1041
    ECDSA_SHA256 = 0x1044
    ECDSA_SHA384 = 0x1045
    ECDSA_SHA512 = 0x1046
    EC_EDWARDS_KEY_PAIR_GEN = 0x1055
    EDDSA = 0x1057


ML_DSA_PARAMETER_SETS = {"ml-dsa-44": 1, "ml-dsa-65": 2, "ml-dsa-87": 3}
"""CKP_ML_DSA_… of PKCS#11 3.2, by kind of key."""


class Return(enum.IntEnum):
    """Return values (CKR_…) that mean something to us; the rest is a number."""

    OK = 0x000
    HOST_MEMORY = 0x002
    SLOT_ID_INVALID = 0x003
    GENERAL_ERROR = 0x005
    FUNCTION_FAILED = 0x006
    ARGUMENTS_BAD = 0x007
    CANT_LOCK = 0x00A
    ATTRIBUTE_SENSITIVE = 0x011
    ATTRIBUTE_TYPE_INVALID = 0x012
    ATTRIBUTE_VALUE_INVALID = 0x013
    DATA_LEN_RANGE = 0x021
    DEVICE_ERROR = 0x030
    DEVICE_MEMORY = 0x031
    DEVICE_REMOVED = 0x032
    FUNCTION_CANCELED = 0x050
    FUNCTION_NOT_SUPPORTED = 0x054
    KEY_HANDLE_INVALID = 0x060
    KEY_TYPE_INCONSISTENT = 0x063
    KEY_FUNCTION_NOT_PERMITTED = 0x068
    MECHANISM_INVALID = 0x070
    MECHANISM_PARAM_INVALID = 0x071
    OBJECT_HANDLE_INVALID = 0x082
    OPERATION_ACTIVE = 0x090
    OPERATION_NOT_INITIALIZED = 0x091
    PIN_INCORRECT = 0x0A0
    PIN_INVALID = 0x0A1
    PIN_LEN_RANGE = 0x0A2
    PIN_EXPIRED = 0x0A3
    PIN_LOCKED = 0x0A4
    SESSION_CLOSED = 0x0B0
    SESSION_COUNT = 0x0B1
    SESSION_HANDLE_INVALID = 0x0B3
    SESSION_READ_ONLY = 0x0B5
    TOKEN_NOT_PRESENT = 0x0E0
    TOKEN_NOT_RECOGNIZED = 0x0E1
    TOKEN_WRITE_PROTECTED = 0x0E2
    USER_ALREADY_LOGGED_IN = 0x100
    USER_NOT_LOGGED_IN = 0x101
    USER_PIN_NOT_INITIALIZED = 0x102
    USER_TYPE_INVALID = 0x103
    USER_ANOTHER_ALREADY_LOGGED_IN = 0x104
    BUFFER_TOO_SMALL = 0x150
    CRYPTOKI_NOT_INITIALIZED = 0x190
    CRYPTOKI_ALREADY_INITIALIZED = 0x191


def return_name(code: int) -> str:
    """Return the name of a return value, as the standard spells it, or its number."""
    try:
        return f"CKR_{Return(code).name}"
    except ValueError:
        return f"return value 0x{code:08x}"


class CryptokiError(Exception):
    """A PKCS#11 function returned something else than CKR_OK; becomes a PKIError or OperatorError above."""

    def __init__(self, function: str, code: int) -> None:
        super().__init__(f"{function}: {return_name(code)}")
        self.function = function
        self.code = code


class Version(ctypes.Structure):
    _fields_ = (("major", ctypes.c_ubyte), ("minor", ctypes.c_ubyte))


class Info(ctypes.Structure):
    """CK_INFO."""

    _fields_ = (
        ("cryptoki_version", Version),
        ("manufacturer", ctypes.c_char * 32),
        ("flags", ctypes.c_ulong),
        ("description", ctypes.c_char * 32),
        ("library_version", Version),
    )


class TokenInfo(ctypes.Structure):
    """CK_TOKEN_INFO."""

    _fields_ = (
        ("label", ctypes.c_char * 32),
        ("manufacturer", ctypes.c_char * 32),
        ("model", ctypes.c_char * 16),
        ("serial", ctypes.c_char * 16),
        ("flags", ctypes.c_ulong),
        ("max_session_count", ctypes.c_ulong),
        ("session_count", ctypes.c_ulong),
        ("max_rw_session_count", ctypes.c_ulong),
        ("rw_session_count", ctypes.c_ulong),
        ("max_pin_len", ctypes.c_ulong),
        ("min_pin_len", ctypes.c_ulong),
        ("total_public_memory", ctypes.c_ulong),
        ("free_public_memory", ctypes.c_ulong),
        ("total_private_memory", ctypes.c_ulong),
        ("free_private_memory", ctypes.c_ulong),
        ("hardware_version", Version),
        ("firmware_version", Version),
        ("utc_time", ctypes.c_char * 16),
    )


class SessionInfo(ctypes.Structure):
    """CK_SESSION_INFO."""

    _fields_ = (
        ("slot", ctypes.c_ulong),
        ("state", ctypes.c_ulong),
        ("flags", ctypes.c_ulong),
        ("device_error", ctypes.c_ulong),
    )


class InitializeArgs(ctypes.Structure):
    """CK_C_INITIALIZE_ARGS; `reserved` is the string that some modules want (p11-kit, NSS)."""

    _fields_ = (
        ("create_mutex", ctypes.c_void_p),
        ("destroy_mutex", ctypes.c_void_p),
        ("lock_mutex", ctypes.c_void_p),
        ("unlock_mutex", ctypes.c_void_p),
        ("flags", ctypes.c_ulong),
        ("reserved", ctypes.c_char_p),
    )


class AttributeValue(ctypes.Structure):
    """CK_ATTRIBUTE."""

    _fields_ = (("type", ctypes.c_ulong), ("value", ctypes.c_void_p), ("length", ctypes.c_ulong))


class MechanismValue(ctypes.Structure):
    """CK_MECHANISM."""

    _fields_ = (("mechanism", ctypes.c_ulong), ("parameter", ctypes.c_void_p), ("length", ctypes.c_ulong))


class PSSParameters(ctypes.Structure):
    """CK_RSA_PKCS_PSS_PARAMS."""

    _fields_ = (("hash", ctypes.c_ulong), ("mgf", ctypes.c_ulong), ("salt_length", ctypes.c_ulong))


# CK_FUNCTION_LIST in its order (PKCS#11 2.40, appendix; unchanged since 2.01).
FUNCTIONS = (
    "Initialize", "Finalize", "GetInfo", "GetFunctionList", "GetSlotList", "GetSlotInfo", "GetTokenInfo",
    "GetMechanismList", "GetMechanismInfo", "InitToken", "InitPIN", "SetPIN", "OpenSession", "CloseSession",
    "CloseAllSessions", "GetSessionInfo", "GetOperationState", "SetOperationState", "Login", "Logout",
    "CreateObject", "CopyObject", "DestroyObject", "GetObjectSize", "GetAttributeValue", "SetAttributeValue",
    "FindObjectsInit", "FindObjects", "FindObjectsFinal", "EncryptInit", "Encrypt", "EncryptUpdate",
    "EncryptFinal", "DecryptInit", "Decrypt", "DecryptUpdate", "DecryptFinal", "DigestInit", "Digest",
    "DigestUpdate", "DigestKey", "DigestFinal", "SignInit", "Sign", "SignUpdate", "SignFinal", "SignRecoverInit",
    "SignRecover", "VerifyInit", "Verify", "VerifyUpdate", "VerifyFinal", "VerifyRecoverInit", "VerifyRecover",
    "DigestEncryptUpdate", "DecryptDigestUpdate", "SignEncryptUpdate", "DecryptVerifyUpdate", "GenerateKey",
    "GenerateKeyPair", "WrapKey", "UnwrapKey", "DeriveKey", "SeedRandom", "GenerateRandom", "GetFunctionStatus",
    "CancelFunction", "WaitForSlotEvent",
)  # fmt: skip


class FunctionList(ctypes.Structure):
    """CK_FUNCTION_LIST."""

    _fields_ = (("version", Version), ("functions", ctypes.c_void_p * len(FUNCTIONS)))


_ULONG, _POINTER, _TEXT = ctypes.c_ulong, ctypes.c_void_p, ctypes.c_char_p
_PROTOTYPES: dict[str, tuple[Any, ...]] = {
    "Initialize": (_POINTER,),
    "Finalize": (_POINTER,),
    "GetInfo": (_POINTER,),
    "GetSlotList": (ctypes.c_ubyte, _POINTER, _POINTER),
    "GetTokenInfo": (_ULONG, _POINTER),
    "GetMechanismList": (_ULONG, _POINTER, _POINTER),
    "InitToken": (_ULONG, _POINTER, _ULONG, _TEXT),
    "InitPIN": (_ULONG, _POINTER, _ULONG),
    "OpenSession": (_ULONG, _ULONG, _POINTER, _POINTER, _POINTER),
    "CloseSession": (_ULONG,),
    "CloseAllSessions": (_ULONG,),
    "GetSessionInfo": (_ULONG, _POINTER),
    "Login": (_ULONG, _ULONG, _POINTER, _ULONG),
    "Logout": (_ULONG,),
    "CreateObject": (_ULONG, _POINTER, _ULONG, _POINTER),
    "DestroyObject": (_ULONG, _ULONG),
    "GetAttributeValue": (_ULONG, _ULONG, _POINTER, _ULONG),
    "FindObjectsInit": (_ULONG, _POINTER, _ULONG),
    "FindObjects": (_ULONG, _POINTER, _ULONG, _POINTER),
    "FindObjectsFinal": (_ULONG,),
    "SignInit": (_ULONG, _POINTER, _ULONG),
    "Sign": (_ULONG, _TEXT, _ULONG, _POINTER, _POINTER),
    "GenerateKeyPair": (_ULONG, _POINTER, _POINTER, _ULONG, _POINTER, _ULONG, _POINTER, _POINTER),
}


class Functions:
    """
    The functions of one loaded module, each as `name(*arguments) -> return value`.

    Raises OSError when the file is no loadable library, AttributeError when it exports no C_GetFunctionList.
    """

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)
        get = self._library.C_GetFunctionList
        get.argtypes, get.restype = (_POINTER,), _ULONG
        pointer = ctypes.POINTER(FunctionList)()
        if code := get(ctypes.byref(pointer)):
            raise CryptokiError("C_GetFunctionList", code)
        self._raw: dict[str, Any] = {
            name: ctypes.CFUNCTYPE(_ULONG, *arguments)(pointer.contents.functions[FUNCTIONS.index(name)])
            for name, arguments in _PROTOTYPES.items()
        }
        # The two calls of every signature skip the look-up and the check of `call`.
        self.sign_init: Any = self._raw["SignInit"]
        self.sign: Any = self._raw["Sign"]

    def call(self, name: str, *arguments: Any) -> None:
        """Call C_`name`; raises CryptokiError for anything but CKR_OK."""
        if code := self._raw[name](*arguments):
            raise CryptokiError(f"C_{name}", code)

    def finalize(self) -> None:
        """C_Finalize, whatever it answers: afterwards the library is not initialised."""
        self._raw["Finalize"](None)

    def ulongs(self, name: str, *arguments: Any) -> list[int]:
        """Call a function that fills an array of CK_ULONG: once for its size, once for its contents."""
        count = ctypes.c_ulong()
        self.call(name, *arguments, None, ctypes.byref(count))
        values = (ctypes.c_ulong * count.value)()
        self.call(name, *arguments, values, ctypes.byref(count))
        return list(values[: count.value])


def template(values: dict[Attribute, bytes | int | bool]) -> Any:
    """Make a CK_ATTRIBUTE array; booleans are CK_BBOOL, integers CK_ULONG. It keeps its buffers alive."""
    array: Any = (AttributeValue * len(values))()
    buffers = []
    for entry, (kind, value) in zip(array, values.items(), strict=True):
        if isinstance(value, bool):
            octets = bytes((value,))
        elif isinstance(value, int):
            octets = bytes(ctypes.c_ulong(value))
        else:
            octets = value
        buffer = ctypes.create_string_buffer(octets, max(len(octets), 1))
        buffers.append(buffer)
        entry.type, entry.value, entry.length = kind, ctypes.addressof(buffer), len(octets)
    array.buffers = buffers
    return array


def mechanism(kind: Mechanism, parameter: ctypes.Structure | None = None) -> MechanismValue:
    """Make a CK_MECHANISM; it keeps its parameter alive."""
    value = MechanismValue(kind, None, 0)
    if parameter is not None:
        value.parameter, value.length = ctypes.addressof(parameter), ctypes.sizeof(parameter)
        value.kept = parameter
    return value


def text(value: bytes) -> str:
    """Read a blank-padded field. ctypes cuts it at a NUL, which the standard does not allow in it anyway."""
    return value.decode("utf-8", "replace").rstrip(" \0")
