//! Why an agent does not do what it is asked. The only file that makes a `tonic::Status`: what a controller
//! must recognise travels as a code in the status's details (`Refused` of `agent.proto`), never as a
//! sentence.

use crate::v1::Refused;
use crate::v1::refused::Reason;
use prost::Message as _;
use tonic::{Code, Status};
use vsgpu_core::IoError;

/// A refusal, with its sentence for people.
#[derive(Clone, Debug)]
pub struct Refusal {
    code: Code,
    reason: Reason,
    message: String,
}

impl Refusal {
    fn plain(code: Code, message: impl Into<String>) -> Self {
        Self { code, reason: Reason::Unspecified, message: message.into() }
    }

    fn with(code: Code, reason: Reason, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into() }
    }

    /// Another controller has the node now.
    pub(crate) fn held(message: impl Into<String>) -> Self {
        Self::with(Code::ResourceExhausted, Reason::Held, message)
    }

    /// Another controller took the node over.
    pub(crate) fn overtaken(message: impl Into<String>) -> Self {
        Self::with(Code::Aborted, Reason::Overtaken, message)
    }

    /// The agent does not know the claim any more.
    pub(crate) fn lease_lost(message: impl Into<String>) -> Self {
        Self::with(Code::FailedPrecondition, Reason::LeaseLost, message)
    }

    /// The call carried no claim.
    pub(crate) fn unclaimed(message: impl Into<String>) -> Self {
        Self::with(Code::FailedPrecondition, Reason::Unclaimed, message)
    }

    /// The agent does not know the requirement, fact or restart.
    pub(crate) fn unknown_operation(message: impl Into<String>) -> Self {
        Self::with(Code::Unimplemented, Reason::UnknownOperation, message)
    }

    /// The request itself is wrong.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::plain(Code::InvalidArgument, message)
    }

    /// The certificate does not allow it.
    pub(crate) fn not_permitted(message: impl Into<String>) -> Self {
        Self::plain(Code::PermissionDenied, message)
    }

    /// Too much at once, or no room.
    pub(crate) fn exhausted(message: impl Into<String>) -> Self {
        Self::plain(Code::ResourceExhausted, message)
    }

    /// A place on the machine that is not there.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::plain(Code::NotFound, message)
    }

    /// The sender goes on behind what is there.
    pub(crate) fn out_of_range(message: impl Into<String>) -> Self {
        Self::plain(Code::OutOfRange, message)
    }

    /// The stream ended too early; it can be resumed.
    pub(crate) fn cut_short(message: impl Into<String>) -> Self {
        Self::plain(Code::Aborted, message)
    }

    /// What arrived is not what was sent.
    pub(crate) fn damaged(message: impl Into<String>) -> Self {
        Self::plain(Code::DataLoss, message)
    }

    /// The machine does not answer, or is on its way down.
    pub(crate) fn away(message: impl Into<String>) -> Self {
        Self::plain(Code::Unavailable, message)
    }

    /// It took too long.
    pub(crate) fn too_late(message: impl Into<String>) -> Self {
        Self::plain(Code::DeadlineExceeded, message)
    }

    /// The agent failed.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::plain(Code::Internal, message)
    }

    /// For people.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// The reason that a status carries, where it carries one.
    pub(crate) fn reason(status: &Status) -> Reason {
        Refused::decode(status.details()).map_or(Reason::Unspecified, |refused| refused.reason())
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        match refusal.reason {
            Reason::Unspecified => Self::new(refusal.code, refusal.message),
            reason => {
                let details = Refused { reason: reason.into() }.encode_to_vec();
                Self::with_details(refusal.code, refusal.message, details.into())
            }
        }
    }
}

/// What the transport says: a stream that was cut.
impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self { code: status.code(), reason: Self::reason(&status), message: status.message().into() }
    }
}

/// A machine that is away is for the caller what an agent is that is away.
impl From<&IoError> for Refusal {
    fn from(error: &IoError) -> Self {
        match error {
            IoError::Unreachable(why) => Self::away(why),
            other => Self::internal(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_survives_the_wire_and_a_sentence_is_none() {
        let status = Status::from(Refusal::overtaken("somebody else works on it"));
        assert_eq!((Refusal::reason(&status), status.code()), (Reason::Overtaken, Code::Aborted));
        let same_words = Status::from(Refusal::cut_short("somebody else works on it"));
        assert_eq!(Refusal::reason(&same_words), Reason::Unspecified);
        assert_eq!(
            Refusal::reason(&Status::with_details(Code::Aborted, "x", vec![0xff, 0xff].into())),
            Reason::Unspecified
        );
    }
}
