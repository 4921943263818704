"""The words that may stand in a scrubbed free text: general and medical English, some German.

An allow-list: what is not here, and is no short number, does not pass `decide.freetext`. Words that are also common
names are left out on purpose (Barrett, Grant, Lynch, Rose …), or stand in `ONLY_SMALL` and pass in lower case only.
Lower case, accents folded; the reader understands plurals and simple endings, so the plain form is enough.
"""

from __future__ import annotations

_GENERAL = """
a about above absent according across after again against all almost along already also although always among an and
another any appear appeared approximately are area around as at available away back based be because become been
before began begin being below beneath beside besides best better between beyond both but by came can cannot case
cases change changed changes clear clearly close come common compared complete completed completely concern consider
considered consistent contain containing contains continue continued could course current currently daily day days
decrease decreased deep definite describe described description despite detail did different difficult discuss
discussed do does done down due during each early either else end entire entirely equal especially essentially even
evidence evident except exclude excluded expected extend extended extending extends extent few final finally find
finding findings first five follow followed following for form found four from full further gave general generally
give given go good great greater group had half has have having he her here high higher highly him his history hour
hours how however i identified if important in include included includes including increase increased indicate
indicated initial inside into is it its just kept kind known large larger largest last late later least left less
level likely limit limited line little long longer low lower made main major make making many markedly material
maximum may mean means measure measured measures measuring mild mildly minimal minimally minimum minor minute minutes
moderate moderately month months more most mostly much multiple must narrow near nearly necessary need needed negative
new next no non none nor normal normally not note noted nothing now number observed obtained of off often old on once
one only onto open or order other our out outer outside over overall own part partial partially parts per performed
please point poor poorly portion positive possible possibly predominantly present presented presents previous
previously primary prior probable probably procedure provided quality question range rare rarely rather reason
received recent recently recommend recommended regarding region regular related relatively remain remained remains
repeat repeated report reported represent requested required result results return returned reveal review reviewed
right rule same sampled satisfactory second secondary section sections see seen send sent separate separately series
several severe she short should show showed showing shown shows side significant similar since single site six size
slight slightly slow small smaller so some special specific stable start started state status still subsequent such
suggest suggested suggestive superficial support surrounding suspected suspicion suspicious than that the their them
then there therefore these they third this those though three through throughout thus time times to today together too
took total toward toxic two type typical typically unchanged unclear under undergo underlying underwent uniform until
up upon upper usual usually value variable various very via view visible visit was way we week weeks well went were
what when where whether which while who whole wide wider will with within without would year years yes yet
"""

_MEDICINE = """
abdomen abdominal ablation abnormal abnormality abscess absence acid acinar acinus acute adenocarcinoma adenoma
adenomatous adenosis adhesion adipose adjacent adjuvant admission adrenal advanced affected age aggregate aggressive
airway alive allergy alveolar amorphous amyloid anaesthesia anal anaplastic anastomosis anemia angiogenesis
angiolymphatic angiosarcoma anterior antibody antigen aorta apical apocrine apoptosis apoptotic appendix architectural
architecture artery ascites aspirate aspiration assessment asymptomatic atrophic atrophy atypia atypical autopsy
axilla axillary bacterial basal basaloid benign bilateral bile biliary biomarker biopsies biopsy bladder bleeding
block blood body bone borderline bowel brain branch breast brisk bronchial bronchus bulky calcification calcified
cancer capsular capsule carcinoid carcinoma carcinosarcoma cardiac cartilage caudal cavity cell cells cellular
cellularity central cervical cervix chemotherapy chest cholangiocarcinoma chondrosarcoma chromatin chronic cirrhosis
classic classical clear clinical clinically coarse collagen colon colonic colonoscopy colorectal comedo comedonecrosis
comment comorbidity complication component compression concentric confirmed confluent congestion conservative core
cores cortex cortical cribriform crypt cut cyst cystic cytokeratin cytologic cytological cytology cytoplasm
cytoplasmic dead death debris deceased decline deeper defect deficiency deficient degeneration density dermal dermis
desmoplasia desmoplastic detected diabetes diagnosed diagnosis diagnostic diameter died differential differentiated
differentiation diffuse diffusely dilated discharge discontinued disease dissection distal distant distinct
distribution diverticulum donor dorsal dose drain duct ductal duodenum dysplasia dysplastic edema effusion elastic
elderly elective embolism embolus endocrine endometrial endometrioid endometrium endoscopic endoscopy endothelial
enhancement enlarged enteric enzyme eosinophilic eosinophils epidermal epidermis epidermoid epithelial epithelioid
epithelium equivocal erosion esophageal esophagus estrogen exam examination examined excision excisional exophytic
exposure expression extracapsular extramural extranodal extraprostatic extrathyroidal exudate failure family fascia
fat fatty favor favorable feature features female femur fever fibroadenoma fibroid fibroma fibrosarcoma fibrosis
fibrotic fibrous field fine firm fixation fixed flat fluid focal focally foci focus follicle follicular followup
foreign formalin formation fracture fragment fragmented fragments free frozen function fundus fungal fusion
gallbladder ganglion gastrectomy gastric gastritis gastroesophageal gastrointestinal gene genetic germ germinal giant
gland glands glandular glioblastoma glioma glomerular glomerulus goblet grade grading granular granulation granuloma
granulomatous gross grossly growth gynecologic haemorrhage hamartoma head heart hemangioma hematoma hematopoietic
hematoxylin hemicolectomy hemorrhage hemorrhagic hepatic hepatitis hepatocellular hepatocyte hernia heterogeneous high
hilar hilum histiocyte histologic histological histology hodgkin hormone hospital hyaline hyperchromasia
hyperchromatic hyperplasia hyperplastic hypertension hysterectomy ileum iliac image imaging immune immunohistochemical
immunohistochemistry immunostain immunotherapy inadequate incidental incision incomplete indeterminate index infarct
infarction infection infectious inferior infiltrate infiltrating infiltration infiltrative inflamed inflammation
inflammatory inguinal initial injury inked inner insitu insufficient intact interface intermediate internal
interstitial intervention intestinal intestine intima intraductal intraepithelial intralymphatic intramucosal
intramural intraoperative intratumoral intravascular invade invaded invading invasion invasive involved involvement
involving irregular ischemia ischemic islet isolated jejunum joint keratin keratinization keratinizing keratosis
kidney laboratory lamina laparoscopic large laryngeal larynx lateral layer leiomyoma leiomyosarcoma lesion lesional
lesions leukemia lipoma liposarcoma liver lobe lobectomy lobular lobule local localized locally locoregional loss
lumen luminal lumpectomy lung lungs lymph lymphadenopathy lymphatic lymphocyte lymphocytes lymphocytic lymphoid
lymphoma lymphovascular macrophage macroscopic male malignancy malignant mammary mammogram mammography mandible margin
marginal margins marker marrow mass massive mast mastectomy matrix mature medial mediastinal mediastinum medical
medicine medullary melanin melanocyte melanocytic melanoma membrane membranous meningioma menopausal mesenchymal
mesentery mesothelioma metachronous metaplasia metaplastic metastases metastasis metastasized metastatic
microcalcification microcalcifications microinvasion microinvasive micrometastasis micropapillary microsatellite
microscopic microscopy midline mitoses mitosis mitotic mixed molecular monitoring morphologic morphology mortality
mucin mucinous mucosa mucosal multicentric multifocal multifocality multinodular mural muscle muscular muscularis
mutant mutated mutation myeloid myeloma myocardial myofibroblast myoma myometrial myometrium myxoid narrow nasal neck
necrosis necrotic needle negative neoadjuvant neoplasia neoplasm neoplastic nephrectomy nerve nest nests neural
neuroendocrine neurofibroma neutrophil nevus nipple nodal node nodes nodular nodule nodules nonkeratinizing
nonspecific nottingham nuclear nucleoli nucleolus nucleus obese obesity obstruction occult ocular omentum oncocytic
oncology opinion optical oral orbital organ organoid origin orthotopic osteosarcoma outcome outpatient ovarian ovary
overexpression pain palliative pancreas pancreatic papilla papillary paraffin paraganglioma parathyroid parenchyma
parietal parotid pathologic pathological pathologist pathology patient patients pattern patterns pelvic pelvis penile
peptic perforation pericardial perineural peripheral peritoneal peritoneum periurethral pharynx phyllodes pigment
pigmented pituitary placebo placenta plaque plasma platelet pleomorphic pleomorphism pleura pleural pneumonectomy
pneumonia polyp polypectomy polypoid polyps positive positivity posterior postmenopausal postoperative premenopausal
preoperative pressure progesterone prognosis prognostic progressed progression progressive proliferation proliferative
prominent prostate prostatectomy prostatic protein protocol proximal pseudo psoriasis pulmonary puncture purulent pus
pylorus quadrant radial radiation radiologic radiology radiotherapy reaction reactive receptor receptors rectal rectum
recurred recurrence recurrent reduced refractory regional regression relapse remission renal resectable resected
resection resolved respiratory responded responder response retinal retroperitoneal rhabdomyosarcoma risk salivary
sample samples sarcoma sarcomatoid scan scar schwannoma sclerosing sclerosis score scored screening sebaceous segment
seminal seminoma sentinel septum serosa serosal serous serum severe shave sheets sigmoid signet sinus skeletal skin
smear smoker smoking smooth soft solid solitary specimen specimens spinal spindle spleen splenic spread squamous stage
staged staging stain stained staining stains standard stem stenosis sternal steroid stomach stricture stroma stromal
strong strongly subcutaneous subcutis submitted submucosa submucosal subset subtotal subtype superior supraclavicular
surface surgery surgical survival survived suspicious suture sweat symptom symptomatic symptoms synchronous syndrome
synovial systemic targeted teratoma terminal test tested testicular testis tests therapy thickened thickness thoracic
thorax thrombosis thrombus thymic thymoma thymus thyroid thyroidectomy thyroiditis tissue tissues tolerated tongue
tonsil toxicity trabecular trachea transfer transformation transition transitional transmural transplant
transplantation transurethral transverse trauma treated treatment trial triple tube tuberculosis tubular tubule tumor
tumoral tumors tumour tumours ulcer ulcerated ulceration ulcerative ultrasound undifferentiated unfavorable unifocal
unilateral unremarkable unresectable ureter urethra urethral urinary urine urothelial urothelium uterine uterus vagina
vaginal vascular vein venous ventral vesicle vessel vessels villous viral virus visceral vocal volume vulva vulvar
weak weakly weight widespread wound xanthoma
"""

_SHORT = """
place date time word
accession address born call dob dr email lives mail mr mrn mrs ms mx name number phone prof pt ssn tel telephone zip
afp ajcc alk als amyl apc atm bap braf brca btk bx ca cd cea chr ck cm cns copd ct ctnnb cyt dcis dna eber ebv egfr
eln ene er ercc etc fap fdg ffpe figo fish fna foxp gata gg gi gist gleason gtv gu hbv hcc hcv he her hiv hpf hpv hx
idc ihc ilc im inv isup iv kg ki kras lcis lln lvi mdm mets mg min mitf ml mlh mm mmr mri msh msi mss mts nac nb neg
ng nk nos nras nsclc ntrk nut orif os pas pax pcr pd pet pfs pik plt pms pni po pos post pr pre psa pt pten ptx qd ras
rb rbc rcc ret rna ros rt rx sall sata scc sclc sd sln smarcb sox stat sx tace tert tfe til tils tmb tnm tp ttf tur
turb turp tx uicc us vs wbc who wnl g gy h hr hrs l mcg mmol um x i ii iii ia ib ic iia iib iic iiia iiib iiic iva ivb
ivc pta ptis pn pnx pm cn lv
"""

_GERMAN = """
aber abklarung adenokarzinom alle als am an auch auf aus befund bei beidseitig beidseits bis bosartig brust darm das
dem den der des diagnose die diffus drei drusig ein eine einem einen einer eines eingriff entfernt entnahme er
erhalten es frage frei fur gewebe gewebsprobe grad gut gutartig hinweis histologie histologisch im in infiltration
invasiv ist kein keine keinen klinisch knoten kolon kolonkarzinom leber leib linke linken links lunge lymphknoten
magen malignem malignes mammakarzinom massig melanom metastase metastasen mit mittel nach nachweis negativ nekrose
nicht niedrig niere noch oder ohne operation patient patientin plattenepithelkarzinom positiv primartumor probe
prostata prostatakarzinom rechte rechten rechts resektat rezidiv schilddruse schlecht schnitt schnittrand sehr sich
sie sind stadium stanze teil therapie tumor tumors unauffallig und unter urothelkarzinom verdacht verlauf vom von vor
war weitere wenig wird wurde zeigt zellen zum zur zustand zwei
"""

WORDS = frozenset(" ".join((_GENERAL, _MEDICINE, _SHORT, _GERMAN)).split())

# also names of people or months: with a capital they are taken for those
ONLY_SMALL = frozenset(
    """
    able best branch brisk chance clear close coarse day deep donor ray duct early elder field fine firm free gene
    given good great gross head heart high hilum hour island joint just kind large last late lean light line little
    long low major march mark mass may mean miles minor mild more must neck nest next nipple noble only page part
    poor rare round rule sample scant sharp short slight slow small smooth solid still strong sweat term test trial
    tube tongue wall weak week well while wide will wound young
    """.split()
)
