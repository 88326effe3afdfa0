//! What is kept of calls: shown to the operator, and forgotten.

use base::TenantId;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kernel::Operator;
use kernel::audit::content::{Kept, KeptPart};
use kernel::audit::person::Whose;
use rpc::{Answer, ContentPart, Fault, FaultCode, Forget, Row};

use super::Office;
use crate::fault::fault;
use crate::feed::Feed;

/// Bytes of a person's name.
const PERSON_BYTES: usize = 256;

impl Office {
    pub(super) async fn content(
        &self,
        operator: &Operator,
        id: &TenantId,
        seq: u64,
        to: &Feed,
    ) -> Result<Answer, Fault> {
        let tenant = self.tenant(operator, id)?;
        let parts = match tenant
            .audit_content(seq)
            .await
            .map_err(|error| self.audit_fault(operator, &tenant, error))?
        {
            Some(Kept::Parts(parts)) => parts,
            Some(Kept::Erased) => {
                let text = format!("what was kept with entry {seq} of {id} was erased for good");
                return Err(Fault::new(FaultCode::Erased, text));
            }
            None => {
                let text = format!(
                    "nothing is kept with entry {seq} of {id}; the logging level full keeps what calls say"
                );
                return Err(Fault::new(FaultCode::NotFound, text));
            }
        };
        self.kernel
            .record_content_access(operator, &tenant, seq)
            .await
            .map_err(fault)?;
        for part in parts {
            to.push(Row::Content(content_part(part))).await?;
        }
        Ok(Answer::End { rows: to.pushed() })
    }

    pub(super) async fn forget(
        &self,
        operator: &Operator,
        forget: Forget,
    ) -> Result<Answer, Fault> {
        let invalid = |text: &str| Err(Fault::new(FaultCode::Invalid, text));
        let (whose, shown) = match (forget.person, forget.token) {
            (Some(person), None) if (1..=PERSON_BYTES).contains(&person.len()) => {
                (Whose::Person(person), "the person")
            }
            (Some(_), None) => return invalid("a person's name has 1 to 256 bytes"),
            (None, Some(token)) => (Whose::Token(token), "the token"),
            _ => return invalid("give a person or a token, one of the two"),
        };
        let id = &forget.tenant;
        let tenant = self.tenant(operator, id)?;
        let conversations = self
            .kernel
            .forget_person(operator, &tenant, whose)
            .await
            .map_err(fault)?;
        Ok(Answer::Done {
            message: format!(
                "what {shown} said in calls of {id} can be read by nobody any more; conversations deleted: {conversations}; \
                 the entries stay"
            ),
        })
    }
}

/// One side of a call as programs read it.
pub(crate) fn content_part(part: KeptPart) -> ContentPart {
    let name = part.part.as_str().to_owned();
    let (text, base64) = match String::from_utf8(part.kept) {
        Ok(text) => (Some(text), None),
        Err(other) => (None, Some(STANDARD.encode(other.as_bytes()))),
    };
    ContentPart {
        part: name,
        bytes: part.bytes,
        text,
        base64,
    }
}
