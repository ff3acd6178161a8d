//! Additional sense codes, with the words that T10 gives them (SPC-4 annex D).

use std::fmt;

/// ASC and ASCQ: what exactly happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AdditionalSense {
    /// ADDITIONAL SENSE CODE.
    pub asc: u8,
    /// ADDITIONAL SENSE CODE QUALIFIER.
    pub ascq: u8,
}

impl AdditionalSense {
    /// Any code, known here or not.
    #[must_use]
    pub const fn new(asc: u8, ascq: u8) -> Self {
        Self { asc, ascq }
    }
}

/// Defines the named codes and their texts from one list.
macro_rules! additional_sense {
    ($($name:ident = $asc:literal / $ascq:literal, $text:literal;)*) => {
        impl AdditionalSense {
            $(
                #[doc = $text]
                pub const $name: Self = Self::new($asc, $ascq);
            )*

            /// The standard's words for the code, if it is one that this crate names.
            #[must_use]
            pub const fn text(self) -> Option<&'static str> {
                match (self.asc, self.ascq) {
                    $(($asc, $ascq) => Some($text),)*
                    _ => None,
                }
            }
        }

        #[cfg(test)]
        pub(super) const NAMED: &[AdditionalSense] = &[$(AdditionalSense::$name),*];
    };
}

additional_sense! {
    NONE = 0x00/0x00, "No additional sense information";
    FILEMARK_DETECTED = 0x00/0x01, "Filemark detected";
    END_OF_PARTITION_DETECTED = 0x00/0x02, "End-of-partition/medium detected";
    BEGINNING_OF_PARTITION_DETECTED = 0x00/0x04, "Beginning-of-partition/medium detected";
    END_OF_DATA_DETECTED = 0x00/0x05, "End-of-data detected";
    IO_PROCESS_TERMINATED = 0x00/0x06, "I/O process terminated";
    NOT_READY_CAUSE_NOT_REPORTABLE = 0x04/0x00, "Logical unit not ready, cause not reportable";
    BECOMING_READY = 0x04/0x01, "Logical unit is in process of becoming ready";
    INITIALIZING_COMMAND_REQUIRED = 0x04/0x02, "Logical unit not ready, initializing command required";
    MANUAL_INTERVENTION_REQUIRED = 0x04/0x03, "Logical unit not ready, manual intervention required";
    FORMAT_IN_PROGRESS = 0x04/0x04, "Logical unit not ready, format in progress";
    OPERATION_IN_PROGRESS = 0x04/0x07, "Logical unit not ready, operation in progress";
    LONG_WRITE_IN_PROGRESS = 0x04/0x08, "Logical unit not ready, long write in progress";
    ALUA_TRANSITION = 0x04/0x0a, "Logical unit not accessible, asymmetric access state transition";
    TARGET_PORT_IN_STANDBY = 0x04/0x0b, "Logical unit not accessible, target port in standby state";
    TARGET_PORT_UNAVAILABLE = 0x04/0x0c, "Logical unit not accessible, target port in unavailable state";
    OFFLINE = 0x04/0x12, "Logical unit not ready, offline";
    SELF_TEST_IN_PROGRESS = 0x04/0x09, "Logical unit not ready, self-test in progress";
    SPACE_ALLOCATION_IN_PROGRESS = 0x04/0x14, "Logical unit not ready, space allocation in progress";
    SANITIZE_IN_PROGRESS = 0x04/0x1b, "Logical unit not ready, sanitize in progress";
    COPY_IN_PROGRESS = 0x00/0x16, "Operation in progress";
    COMMUNICATION_FAILURE = 0x08/0x00, "Logical unit communication failure";
    UNREACHABLE_COPY_TARGET = 0x08/0x04, "Unreachable copy target";
    WRITE_ERROR = 0x0c/0x00, "Write error";
    INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT = 0x0e/0x03, "Invalid field in command information unit";
    THIRD_PARTY_DEVICE_FAILURE = 0x0d/0x01, "Third party device failure";
    COPY_TARGET_NOT_REACHABLE = 0x0d/0x02, "Copy target device not reachable";
    INCORRECT_COPY_TARGET_TYPE = 0x0d/0x03, "Incorrect copy target device type";
    GUARD_CHECK_FAILED = 0x10/0x01, "Logical block guard check failed";
    APPLICATION_TAG_CHECK_FAILED = 0x10/0x02, "Logical block application tag check failed";
    REFERENCE_TAG_CHECK_FAILED = 0x10/0x03, "Logical block reference tag check failed";
    UNRECOVERED_READ_ERROR = 0x11/0x00, "Unrecovered read error";
    WRITE_AFTER_SANITIZE_REQUIRED = 0x11/0x15, "Write after sanitize required";
    PARAMETER_LIST_LENGTH_ERROR = 0x1a/0x00, "Parameter list length error";
    MISCOMPARE_DURING_VERIFY = 0x1d/0x00, "Miscompare during verify operation";
    INVALID_OPERATION_CODE = 0x20/0x00, "Invalid command operation code";
    LBA_OUT_OF_RANGE = 0x21/0x00, "Logical block address out of range";
    INVALID_ELEMENT_ADDRESS = 0x21/0x01, "Invalid element address";
    ILLEGAL_FUNCTION = 0x22/0x00, "Illegal function (use 20 00, 24 00, or 26 00)";
    INVALID_FIELD_IN_CDB = 0x24/0x00, "Invalid field in CDB";
    LOGICAL_UNIT_NOT_SUPPORTED = 0x25/0x00, "Logical unit not supported";
    INVALID_FIELD_IN_PARAMETER_LIST = 0x26/0x00, "Invalid field in parameter list";
    PARAMETER_NOT_SUPPORTED = 0x26/0x01, "Parameter not supported";
    PARAMETER_VALUE_INVALID = 0x26/0x02, "Parameter value invalid";
    INVALID_RELEASE_OF_PERSISTENT_RESERVATION = 0x26/0x04, "Invalid release of persistent reservation";
    TOO_MANY_TARGET_DESCRIPTORS = 0x26/0x06, "Too many target descriptors";
    UNSUPPORTED_TARGET_DESCRIPTOR_TYPE = 0x26/0x07, "Unsupported target descriptor type code";
    TOO_MANY_SEGMENT_DESCRIPTORS = 0x26/0x08, "Too many segment descriptors";
    UNSUPPORTED_SEGMENT_DESCRIPTOR_TYPE = 0x26/0x09, "Unsupported segment descriptor type code";
    UNEXPECTED_INEXACT_SEGMENT = 0x26/0x0a, "Unexpected inexact segment";
    INLINE_DATA_LENGTH_EXCEEDED = 0x26/0x0b, "Inline data length exceeded";
    COPY_SEGMENT_GRANULARITY_VIOLATION = 0x26/0x0d, "Copy segment granularity violation";
    WRITE_PROTECTED = 0x27/0x00, "Write protected";
    SPACE_ALLOCATION_FAILED = 0x27/0x07, "Space allocation failed write protect";
    MEDIUM_MAY_HAVE_CHANGED = 0x28/0x00, "Not ready to ready change, medium may have changed";
    POWER_ON_OR_RESET = 0x29/0x00, "Power on, reset, or bus device reset occurred";
    POWER_ON = 0x29/0x01, "Power on occurred";
    SCSI_BUS_RESET = 0x29/0x02, "SCSI bus reset occurred";
    BUS_DEVICE_RESET = 0x29/0x03, "Bus device reset function occurred";
    DEVICE_INTERNAL_RESET = 0x29/0x04, "Device internal reset";
    NEXUS_LOSS = 0x29/0x07, "I_T nexus loss occurred";
    PARAMETERS_CHANGED = 0x2a/0x00, "Parameters changed";
    MODE_PARAMETERS_CHANGED = 0x2a/0x01, "Mode parameters changed";
    LOG_PARAMETERS_CHANGED = 0x2a/0x02, "Log parameters changed";
    RESERVATIONS_PREEMPTED = 0x2a/0x03, "Reservations preempted";
    RESERVATIONS_RELEASED = 0x2a/0x04, "Reservations released";
    REGISTRATIONS_PREEMPTED = 0x2a/0x05, "Registrations preempted";
    ALUA_STATE_CHANGED = 0x2a/0x06, "Asymmetric access state changed";
    IMPLICIT_ALUA_TRANSITION_FAILED = 0x2a/0x07, "Implicit asymmetric access state transition failed";
    PRIORITY_CHANGED = 0x2a/0x08, "Priority changed";
    CAPACITY_DATA_CHANGED = 0x2a/0x09, "Capacity data has changed";
    TIMESTAMP_CHANGED = 0x2a/0x10, "Timestamp changed";
    COMMAND_SEQUENCE_ERROR = 0x2c/0x00, "Command sequence error";
    PREVIOUS_BUSY = 0x2c/0x07, "Previous busy status";
    PREVIOUS_TASK_SET_FULL = 0x2c/0x08, "Previous task set full status";
    PREVIOUS_RESERVATION_CONFLICT = 0x2c/0x09, "Previous reservation conflict status";
    COMMANDS_CLEARED_BY_ANOTHER_INITIATOR = 0x2f/0x00, "Commands cleared by another initiator";
    COMMANDS_CLEARED_BY_POWER_LOSS = 0x2f/0x01, "Commands cleared by power loss notification";
    INCOMPATIBLE_MEDIUM = 0x30/0x00, "Incompatible medium installed";
    MEDIUM_FORMAT_CORRUPTED = 0x31/0x00, "Medium format corrupted";
    FORMAT_FAILED = 0x31/0x01, "Format command failed";
    SANITIZE_FAILED = 0x31/0x03, "SANITIZE command failed";
    THIN_PROVISIONING_SOFT_THRESHOLD = 0x38/0x07, "Thin provisioning soft threshold reached";
    SAVING_PARAMETERS_NOT_SUPPORTED = 0x39/0x00, "Saving parameters not supported";
    MEDIUM_NOT_PRESENT = 0x3a/0x00, "Medium not present";
    MEDIUM_NOT_PRESENT_TRAY_CLOSED = 0x3a/0x01, "Medium not present - tray closed";
    MEDIUM_NOT_PRESENT_TRAY_OPEN = 0x3a/0x02, "Medium not present - tray open";
    SELF_TEST_FAILED = 0x3e/0x03, "Logical unit failed self-test";
    MICROCODE_CHANGED = 0x3f/0x01, "Microcode has been changed";
    CHANGED_OPERATING_DEFINITION = 0x3f/0x02, "Changed operating definition";
    INQUIRY_DATA_CHANGED = 0x3f/0x03, "INQUIRY data has changed";
    DEVICE_IDENTIFIER_CHANGED = 0x3f/0x05, "Device identifier changed";
    REPORTED_LUNS_DATA_CHANGED = 0x3f/0x0e, "Reported LUNs data has changed";
    INTERNAL_TARGET_FAILURE = 0x44/0x00, "Internal target failure";
    INVALID_MESSAGE_ERROR = 0x49/0x00, "Invalid message error";
    MEDIUM_REMOVAL_PREVENTED = 0x53/0x02, "Medium removal prevented";
    INSUFFICIENT_RESOURCES = 0x55/0x03, "Insufficient resources";
    INSUFFICIENT_REGISTRATION_RESOURCES = 0x55/0x04, "Insufficient registration resources";
    FAILURE_PREDICTION_FALSE = 0x5d/0xff, "Failure prediction threshold exceeded (false)";
    IDLE_BY_COMMAND = 0x5e/0x03, "Idle condition activated by command";
    STANDBY_BY_COMMAND = 0x5e/0x04, "Standby condition activated by command";
    IDLE_B_BY_COMMAND = 0x5e/0x06, "Idle_b condition activated by command";
    IDLE_C_BY_COMMAND = 0x5e/0x08, "Idle_c condition activated by command";
    STANDBY_Y_BY_COMMAND = 0x5e/0x0a, "Standby_y condition activated by command";
    SET_TARGET_PORT_GROUPS_FAILED = 0x67/0x0a, "Set target port groups command failed";
}

impl fmt::Display for AdditionalSense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text().unwrap_or("Additional sense code");
        write!(f, "{text} ({:02X}h/{:02X}h)", self.asc, self.ascq)
    }
}
