//! Sealed values of a tenant.

use base::TenantId;
use kernel::{Operator, Secret};
use rpc::{Answer, Credential, Fault, FaultCode, Row, SecretName, SecretView};

use super::{Office, feed_all};
use crate::fault::{fault, internal};
use crate::feed::Feed;

impl Office {
    pub(super) async fn set_secret(
        &self,
        operator: &Operator,
        id: &TenantId,
        name: &SecretName,
        value: &Credential,
    ) -> Result<Answer, Fault> {
        let tenant = self.tenant(operator, id)?;
        let value = Secret::from_text(value.expose().to_owned())
            .map_err(|error| Fault::new(FaultCode::Invalid, error.to_string()))?;
        self.kernel
            .set_secret(operator, &tenant, name.as_str(), value)
            .await
            .map_err(fault)?;
        Ok(Answer::Done {
            message: format!("secret {name} of {id} is sealed"),
        })
    }

    pub(super) async fn list_secrets(
        &self,
        operator: &Operator,
        id: &TenantId,
        to: &Feed,
    ) -> Result<Answer, Fault> {
        let tenant = self.tenant(operator, id)?;
        let mut rows = Vec::new();
        for info in self
            .kernel
            .list_secrets(operator, &tenant)
            .await
            .map_err(fault)?
        {
            let name = info
                .name
                .parse()
                .map_err(|_| internal(format!("a secret of {id} has a name that is none")))?;
            rows.push(Row::Secret(SecretView {
                name,
                created_at: info.set_at,
            }));
        }
        feed_all(rows, to).await
    }

    pub(super) async fn delete_secret(
        &self,
        operator: &Operator,
        id: &TenantId,
        name: &SecretName,
    ) -> Result<Answer, Fault> {
        let tenant = self.tenant(operator, id)?;
        self.kernel
            .delete_secret(operator, &tenant, name.as_str())
            .await
            .map_err(fault)?;
        Ok(Answer::Done {
            message: format!("secret {name} of {id} is deleted"),
        })
    }

    /// A fresh key for all values of a tenant waits for key rotation in the kernel.
    pub(super) fn rotate_secrets() -> Result<Answer, Fault> {
        let text =
            "secrets rotate is not available in this version; secrets set replaces one value";
        Err(Fault::new(FaultCode::NotAvailable, text))
    }
}
