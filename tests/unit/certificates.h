/* For tests: certificates made on the spot, so that none expires in the tree. */
#ifndef PODGATE_TESTS_CERTIFICATES_H
#define PODGATE_TESTS_CERTIFICATES_H

#include <criterion/criterion.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Paths of PEM files in a directory of the test's own. */
struct certificate {
    char certificate_path[128];
    char key_path[128];
    X509 *x509;
    EVP_PKEY *key;
};

static char certificate_folder[64];

static __attribute__((unused)) void certificates_begin(void)
{
    strcpy(certificate_folder, "/tmp/podgate-test-tls-XXXXXX");
    cr_assert_not_null(mkdtemp(certificate_folder));
}

static __attribute__((unused)) void certificates_end(void)
{
    char command[128];

    snprintf(command, sizeof command, "rm -r '%s'", certificate_folder);
    cr_assert_eq(system(command), 0);
}

static void add_extension(X509 *x509, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX context;
    X509_EXTENSION *extension;

    X509V3_set_ctx(&context, issuer, x509, NULL, NULL, 0);
    extension = X509V3_EXT_conf_nid(NULL, &context, nid, value);
    cr_assert_not_null(extension, "%s", value);
    X509_add_ext(x509, extension, -1);
    X509_EXTENSION_free(extension);
}

/* Makes a certificate for `alternatives` ("DNS:a.example,IP:127.0.0.1"; NULL: none) valid from now
 * for `days` (negative: expired), signed by `issuer`, or by itself when that is NULL. `name` is its
 * common name and names its files. A certificate with `is_authority` may sign others. */
static __attribute__((unused)) struct certificate *
certificate_create(const char *name, const char *alternatives, long days, bool is_authority,
                   const struct certificate *issuer)
{
    struct certificate *made = calloc(1, sizeof *made);
    static long serial = 1;
    X509_NAME *subject;
    FILE *file;

    made->key = EVP_EC_gen("P-256");
    made->x509 = X509_new();
    X509_set_version(made->x509, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(made->x509), serial++);
    X509_gmtime_adj(X509_getm_notBefore(made->x509), -3600L * 24 * 30);
    X509_gmtime_adj(X509_getm_notAfter(made->x509), 3600L * 24 * days);
    X509_set_pubkey(made->x509, made->key);
    subject = X509_get_subject_name(made->x509);
    X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const unsigned char *)name, -1, -1, 0);
    X509_set_issuer_name(made->x509, issuer ? X509_get_subject_name(issuer->x509) : subject);
    add_extension(made->x509, issuer ? issuer->x509 : made->x509, NID_basic_constraints,
                  is_authority ? "critical,CA:TRUE" : "CA:FALSE");
    if (alternatives) {
        add_extension(made->x509, issuer ? issuer->x509 : made->x509, NID_subject_alt_name,
                      alternatives);
    }
    cr_assert_gt(X509_sign(made->x509, issuer ? issuer->key : made->key, EVP_sha256()), 0);

    snprintf(made->certificate_path, sizeof made->certificate_path, "%s/%s-%ld.crt",
             certificate_folder, name, serial);
    snprintf(made->key_path, sizeof made->key_path, "%s/%s-%ld.key", certificate_folder, name,
             serial);
    file = fopen(made->certificate_path, "w");
    cr_assert_eq(PEM_write_X509(file, made->x509), 1);
    fclose(file);
    file = fopen(made->key_path, "w");
    cr_assert_eq(PEM_write_PrivateKey(file, made->key, NULL, NULL, 0, NULL, NULL), 1);
    fclose(file);
    return made;
}

static __attribute__((unused)) void certificate_destroy(struct certificate *certificate)
{
    X509_free(certificate->x509);
    EVP_PKEY_free(certificate->key);
    free(certificate);
}

#endif
